//! EXPOSE: from `8080-8082/TCP` to the ports that the config lists.

use super::Problem;

/// The `port/protocol` entries of one word; a host part before a colon is tolerated and dropped.
pub(super) fn parse(word: &str) -> Result<Vec<String>, Problem> {
    let wrong = |reason| Problem::Port { port: word.to_owned(), reason };
    let (rest, container) = word.rsplit_once(':').map_or((None, word), |(rest, container)| (Some(rest), container));
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => return Err(wrong("the protocol is tcp, udp or sctp")),
    };
    let (first, last) = range(ports).ok_or_else(|| wrong("a port or a range like 8000-8010 is needed"))?;
    if let Some(rest) = rest {
        host_part(rest, first, last).map_err(wrong)?;
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// `[ip:]port` of the host, which EXPOSE has no use for.
fn host_part(rest: &str, first: u16, last: u16) -> Result<(), &'static str> {
    let (address, port) = rest.rsplit_once(':').map_or((None, rest), |(address, port)| (Some(address), port));
    let address_is_good = |address: &str| {
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok()
    };
    if !address.is_none_or(address_is_good) {
        return Err("the part before the ports is no IP address");
    }
    if port.is_empty() {
        return Ok(());
    }
    let (low, high) = range(port).ok_or("the host port is no port")?;
    let as_many = high - low == last - first;
    if as_many || first == last { Ok(()) } else { Err("host and container ranges differ in length") }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges() {
        for (word, ports) in [
            ("80", vec!["80/tcp"]),
            ("53/UDP", vec!["53/udp"]),
            ("8000-8002/sctp", vec!["8000/sctp", "8001/sctp", "8002/sctp"]),
            ("8080:9090", vec!["9090/tcp"]),
            ("127.0.0.1:80:81", vec!["81/tcp"]),
            ("[::1]:80:81", vec!["81/tcp"]),
        ] {
            assert_eq!(parse(word).unwrap(), ports, "{word}");
        }
        for word in ["", "/tcp", "80/http", "65536", "9-8", "a", "-1", "1-2-3", "80-81:8000-8002", "x:1:2", "+1"] {
            assert!(parse(word).is_err(), "{word}");
        }
    }
}
