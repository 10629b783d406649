//! Words and what becomes of them: every form of `${…}`, quotes and escapes.

use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "PWD" => "/home",
        "SHELL" => "bash",
        "NULL" => "",
        "FOO" => "xxyy",
        "BAR" => "x",
        "STARS" => "a***yy*",
        "ODD" => "()[]{}^$.*?|\\x",
        "URL" => "http://google.de",
        "TMP" => "/tmp/tmp/bar.txt",
        "SPACES" => "  ab  c",
        _ => return None,
    };
    Some(value.to_owned())
}

fn word(text: &str) -> Result<String, Invalid> {
    Style::new('\\').word(text, &lookup)
}

#[test]
fn words_expand() {
    for (text, expected) in [
        ("he'll'o", "hello"),
        ("he\\'llo", "he'llo"),
        ("abc\\tdef", "abctdef"),
        ("\"abc\\tdef\"", "abc\\tdef"),
        ("\"abc\\\\tdef\"", "abc\\tdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ("hello\\", "hello"),
        ("\"hel'lo\"", "hel'lo"),
        ("$.", "$."),
        ("he$1x", "hex"),
        ("he$PWD.", "he/home."),
        ("he\\$PWD", "he$PWD"),
        ("he\\\\$PWD", "he\\/home"),
        ("'$PWD'", "$PWD"),
        ("\"he'$PWD'\"", "he'/home'"),
        ("$@$*$#$?$-$$$!$0", ""),
        ("${XXX:-000}", "000"),
        ("${NULL-000}", ""),
        ("${NULL:-000}", "000"),
        ("${XXX:-${YYY:-yyy}}", "yyy"),
        ("${PWD:+${SHELL}}", "bash"),
        ("${XXX:+no}", ""),
        ("${NULL+yes}${NULL:+no}", "yes"),
        ("${NULL?}", ""),
        ("${PWD:?message}", "/home"),
        ("${XXX:-\\$PWD:}x", "$PWD:x"),
        ("${XXX:-\\${PWD}z}xx", "${PWDz}xx"),
        ("${FOO#*x*y}", "y"),
        ("${FOO##*x}", "yy"),
        ("${FOO#$BAR}", "xyy"),
        ("${FOO%y}", "xxy"),
        ("${FOO%%y*}", "xx"),
        ("${STARS%%\\**\\*}", "a"),
        ("${ODD#()[]{\\}^$.\\*\\?|\\\\}", "x"),
        ("${URL/http:\\/\\//https:\\/\\/}", "https:\\/\\/google.de"),
        ("${TMP//\\/tmp/}", "/bar.txt"),
        ("${TMP/\\/tmp/}", "/tmp/bar.txt"),
        ("${FOO///}", "xxyy"),
        ("한국어${PWD}", "한국어/home"),
    ] {
        assert_eq!(word(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn broken_words_are_refused() {
    for text in [
        "he'llo",
        "\"hello",
        "\"hello\\\"",
        "${}",
        "he${}xx",
        "${{x}",
        "${:x}",
        "${.}",
        "${XXX:YYY}",
        "${XXX?}",
        "${NULL:?}",
        "${PWD",
        "${PWD:=x}",
        "${FOO=x}",
        "${FOO:#x}",
        "${FOO//ww}",
        "${FOO//}",
        "${FOO#\\x}",
    ] {
        assert!(word(text).is_err(), "{text}");
    }
    assert_eq!(word("${XXX?give one}").unwrap_err().to_string(), "XXX: give one");
    assert_eq!(word("${NULL:?}").unwrap_err().to_string(), "NULL: is not allowed to be empty");
}

#[test]
fn unquoted_values_split_into_words() {
    for (text, expected) in [
        ("a b", vec!["a", "b"]),
        ("a\\ b", vec!["a b"]),
        ("\"a b\"c", vec!["a bc"]),
        ("x${SPACES}y", vec!["x", "ab", "cy"]),
        ("x\"${SPACES}\"y", vec!["x  ab  cy"]),
        ("${SPACES}", vec!["ab", "c"]),
        ("", vec![]),
    ] {
        assert_eq!(Style::new('\\').words(text, &lookup).unwrap(), expected, "{text}");
    }
}

#[test]
fn another_escape_character() {
    assert_eq!(Style::new('`').word("C:\\x`$PWD$PWD", &lookup).unwrap(), "C:\\x$PWD/home");
}

#[test]
fn heredoc_bodies_keep_their_quotes() {
    assert_eq!(Style::heredoc().word("\"$PWD\" '$PWD' it's", &lookup).unwrap(), "\"/home\" '/home' it's");
}

#[test]
fn hostile_words_end_in_errors() {
    let deep = "${A:-".repeat(5000);
    assert_eq!(word(&deep), Err(Invalid::Depth));
    let long = "x".repeat(100_000);
    let many = "$L".repeat(100);
    assert_eq!(Style::new('\\').word(&many, &|_: &str| Some(long.clone())), Err(Invalid::Length));
}

proptest::proptest! {
    #[test]
    fn expansion_never_panics(text: String) {
        let _ = word(&text); // only whether it returns matters here
    }

    #[test]
    fn quoting_protects_everything(text in "[^']*") {
        proptest::prop_assert_eq!(word(&format!("'{text}'")), Ok(text));
    }
}

#[test]
fn a_byte_order_mark_at_the_start_is_none_of_the_word() {
    assert_eq!(word("\u{feff}a\u{feff}b").unwrap(), "a\u{feff}b");
}
