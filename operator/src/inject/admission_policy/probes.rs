//! `tcpSocket` probes in CEL, as [`super::super::probes`] changes them.

use super::cel::{list, literal, operation, quoted};
use super::{OURS, raw};
use serde_json::json;
use testimony_core::contract::{TCP_PROBE_PATH, port};

const LISTS: [&str; 2] = ["initContainers", "containers"];
const PROBES: [&str; 3] = ["readinessProbe", "livenessProbe", "startupProbe"];

/// Digits of a port that is given as text: no port has more.
const PORT_DIGITS_MAX: usize = 5;

/// Port number of a container's probe, or 0 where there is none that the redirect catches.
fn number(probe: &str) -> String {
    let socket = format!("c.{probe}.tcpSocket");
    let named = format!("c.?ports.orValue([]).filter(p, p.?name.orValue('') == string({socket}.port))");
    let text = format!("string({socket}.port)");
    // A number is text that matches; a name is looked up first, as the kubelet does.
    format!(
        "(!c.?{probe}.?tcpSocket.hasValue() || {socket}.?host.orValue('') != '' ? 0 : \
         type({socket}.port) != int && size({named}) > 0 ? int({named}[0].containerPort) : \
         {text}.matches('^[0-9]{{1,{PORT_DIGITS_MAX}}}$') ? int({text}) : 0)"
    )
}

fn caught(probe: &str) -> String {
    let number = number(probe);
    format!("{number} > 0 && {number} < 65536")
}

/// The operations: for each list and kind of probe one list of them, added up.
pub(super) fn operations() -> String {
    let mut parts = Vec::new();
    for (list_name, probe) in LISTS.iter().flat_map(|l| PROBES.iter().map(move |p| (l, p))) {
        let containers = format!("variables.{list_name}");
        let index = format!("string({containers}.map(d, d.name).indexOf(c.name))");
        let at = |last: &str| format!("\"/spec/{list_name}/\" + {index} + \"/{probe}/{last}\"");
        let path = format!("{} + string({})", quoted(TCP_PROBE_PATH), number(probe));
        let action = json!({"path": raw(path), "port": port::ADMIN, "scheme": "HTTP"});
        let condition = format!("!(c.name in {}) && {}", list(OURS), caught(probe));
        let remove = operation("remove", &at("tcpSocket"), None);
        let add = operation("add", &at("httpGet"), Some(&literal(&action)));
        parts.push(format!("{containers}.map(c, {condition}, {remove})"));
        parts.push(format!("{containers}.map(c, {condition}, {add})"));
    }
    parts.join(" +\n")
}

/// What they were, as the inside of a JSON list.
pub(super) fn changed() -> String {
    let lists = LISTS.map(|list_name| {
        let probes = PROBES.map(|probe| {
            let port = format!("c.{probe}.tcpSocket.port");
            let port = format!("(type({port}) == int ? string({port}) : '\"' + string({port}) + '\"')");
            format!(
                "({} ? '{{\"container\":\"' + c.name + '\",\"probe\":\"{probe}\",\"tcpSocket\":{{\"port\":' + {port} + '}}}}' : '')",
                caught(probe)
            )
        });
        let probes = probes.join(",\n");
        let ours = list(OURS);
        format!("variables.{list_name}.filter(c, !(c.name in {ours})).map(c, [{probes}].filter(t, t != '').join(','))")
    });
    format!("({}).filter(t, t != '').join(',')", lists.join(" +\n"))
}
