//! The pod's routes, as far as they tell who speaks to it.

use std::net::IpAddr;

/// With most network plug-ins the kubelet's probes come from the node's end of the pod's link: its default gateway.
pub fn default_gateways() -> Vec<IpAddr> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    parse_gateways(&table)
}

/// Default routes of `/proc/net/route`: destination 0, gateway in host byte order.
fn parse_gateways(table: &str) -> Vec<IpAddr> {
    let gateway = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (destination, gateway) = (columns.next()?, columns.next()?);
        let raw = u32::from_str_radix(gateway, 16).ok().filter(|raw| *raw != 0)?;
        (destination == "00000000").then(|| IpAddr::from(raw.to_ne_bytes()))
    };
    table.lines().skip(1).filter_map(gateway).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_of_a_pod() {
        let table = "Iface\tDestination\tGateway \tFlags\nlo\t0000007F\t00000000\t1\neth0\t00000000\t0100F40A\t0003\n";
        assert_eq!(parse_gateways(table), ["10.244.0.1".parse::<IpAddr>().expect("address")]);
        assert!(parse_gateways("").is_empty());
    }
}
