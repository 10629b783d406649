//! EXPOSE: how a port is written.

use super::{Rule, Sink};
use crate::dockerfile::Span;

/// Checks `[address:[host:]]port[/protocol]`; what cannot be read at all is told by the planner.
pub(super) fn check(port: &str, span: Span, sink: &mut Sink<'_>) {
    let (mapping, container) = port.rsplit_once(':').unwrap_or(("", port));
    let protocol = container.split_once('/').map_or("", |(_, protocol)| protocol);
    if protocol != protocol.to_lowercase() {
        let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        sink.add(Rule::ExposeProtoCasing, span, message);
    }
    if !mapping.trim_matches(':').is_empty() {
        let message =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
        sink.add(Rule::ExposeInvalidFormat, span, message);
    }
}
