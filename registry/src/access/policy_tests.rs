//! Rules as tables: who may do what.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

fn issued(claims: Value) -> Identity {
    let Value::Object(claims) = claims else { panic!("an object") };
    Identity::Issued { issuer: "gitlab".to_owned(), subject: "job".to_owned(), claims }
}

fn user(name: &str) -> Identity {
    Identity::User(name.to_owned())
}

fn robot(name: &str, rules: Vec<Rule>) -> Identity {
    Identity::Robot { id: "1".to_owned(), name: name.to_owned(), rules: Arc::from(rules) }
}

fn policy() -> Policy {
    Policy(vec![
        rule(json!({"subjects": ["anonymous"], "repositories": ["public/**"], "rights": ["pull"]})),
        rule(json!({"subjects": ["user:alice"], "repositories": ["**"],
            "rights": ["pull", "push", "delete", "overwrite"]})),
        rule(json!({"subjects": ["user:*"], "repositories": ["team/**"], "rights": ["pull", "push"]})),
        rule(json!({"subjects": ["user:*"], "repositories": ["team/**"], "tags": ["dev-*"],
            "rights": ["overwrite", "delete"]})),
        rule(json!({"subjects": ["robot:ci"], "repositories": ["ci/*"], "rights": ["push"]})),
        rule(json!({"subjects": ["issuer:gitlab"], "claims": {"project_id": "7", "ref_protected": "true"},
            "repositories": ["{project_path}", "{project_path}/**"], "rights": ["pull", "push"]})),
        rule(json!({"subjects": ["issuer:gitlab"], "claims": {"/kubernetes.io/namespace": ["shop", "web"]},
            "repositories": ["base/**"], "rights": ["pull"]})),
        rule(json!({"subjects": [format!("certificate:{}", "AB".repeat(32))], "repositories": ["**"],
            "rights": ["pull"]})),
    ])
}

#[test]
fn rules_say_who_may_do_what() {
    let nobody = Identity::Anonymous;
    let job = |id: &str, protected: Value| {
        issued(json!({"project_id": id, "ref_protected": protected, "project_path": "Shop/API"}))
    };
    let pod = |namespace: &str| issued(json!({"kubernetes.io": {"namespace": namespace}}));
    let own = rule(json!({"subjects": ["robot:x"], "repositories": ["own/*"], "rights": ["pull"]}));
    for (who, right, repository, allowed) in [
        (&nobody, Right::Pull, "public/a", true),
        (&nobody, Right::Pull, "public", false),
        (&nobody, Right::Pull, "private/a", false),
        (&nobody, Right::Push, "public/a", false),
        (&user("bob"), Right::Pull, "public/a", true), // a login never takes rights away
        (&user("bob"), Right::Push, "team/a", true),
        (&user("bob"), Right::Push, "public/a", false),
        (&user("alice"), Right::Delete, "any/thing", true),
        (&robot("ci", vec![]), Right::Push, "ci/a", true),
        (&robot("ci", vec![]), Right::Pull, "ci/a", false),
        (&robot("ci2", vec![]), Right::Push, "ci/a", false),
        (&robot("x", vec![own.clone()]), Right::Pull, "own/a", true),
        (&robot("x", vec![own.clone()]), Right::Push, "own/a", false),
        (&user("ci"), Right::Push, "ci/a", false),
        (&job("7", json!("true")), Right::Push, "shop/api", true),
        (&job("7", json!(true)), Right::Push, "shop/api/web", true),
        (&job("7", json!("true")), Right::Push, "shop/other", false),
        (&job("8", json!("true")), Right::Push, "shop/api", false),
        (&job("7", json!("false")), Right::Push, "shop/api", false),
        (&job("7", Value::Null), Right::Push, "shop/api", false),
        (&issued(json!({"project_id": "7"})), Right::Push, "shop/api", false), // a missing claim denies
        (&issued(json!({"project_id": "7", "ref_protected": "true"})), Right::Push, "shop/api", false),
        (&issued(json!({"project_id": ["7"], "ref_protected": "true", "project_path": "a"})), Right::Push, "a", true),
        (
            &issued(json!({"project_id": {"7": 7}, "ref_protected": "true", "project_path": "a"})),
            Right::Push,
            "a",
            false,
        ),
        (&pod("shop"), Right::Pull, "base/debian", true),
        (&pod("other"), Right::Pull, "base/debian", false),
        (&Identity::Certificate("ab".repeat(32)), Right::Pull, "x", true),
        (&Identity::Certificate("ac".repeat(32)), Right::Pull, "x", false),
    ] {
        let repository = repository.parse().unwrap();
        let found = policy().allows(who, right, &repository, Target::Content);
        assert_eq!(found, allowed, "{who} {right} {repository}");
    }
}

#[test]
fn rules_with_tags_hold_for_those_tags() {
    let (bob, repository) = (user("bob"), "team/a".parse().unwrap());
    let dev: Tag = "dev-1".parse().unwrap();
    let release: Tag = "v1".parse().unwrap();
    for (right, target, allowed) in [
        (Right::Push, Target::Tag(&release), true),
        (Right::Overwrite, Target::Tag(&dev), true),
        (Right::Overwrite, Target::Tag(&release), false),
        (Right::Delete, Target::Tag(&dev), true),
        (Right::Delete, Target::Tag(&release), false),
        (Right::Delete, Target::Content, true), // of some tag
        (Right::Delete, Target::AllTags, false),
        (Right::Push, Target::AllTags, true),
    ] {
        assert_eq!(policy().allows(&bob, right, &repository, target), allowed, "{right} {target:?}");
    }
}

#[test]
fn without_rules_nothing_is_allowed() {
    for who in [Identity::Anonymous, user("alice"), robot("ci", vec![]), issued(json!({}))] {
        for right in Right::ALL {
            assert!(!Policy::default().allows(&who, right, &"a".parse().unwrap(), Target::Content), "{who}");
        }
    }
}

#[test]
fn subjects_print_as_they_were_written() {
    for text in ["anonymous", "user:a", "user:*", "robot:*", "robot:ci", "issuer:gitlab"] {
        assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
    }
    for text in ["", "Anonymous", "user", "user:", "issuer:*", "group:a", "certificate:ab", "*"] {
        assert!(text.parse::<Subject>().is_err(), "{text}");
    }
}

#[test]
fn the_claims_that_rules_need_are_known() {
    let policy = policy();
    let mut claims: Vec<&str> = policy.claims().collect();
    claims.sort();
    claims.dedup();
    assert_eq!(claims, ["/kubernetes.io/namespace", "project_id", "project_path", "ref_protected"]);
}
