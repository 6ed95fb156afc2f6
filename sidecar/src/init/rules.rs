//! The redirect rules as data: what they match, in which order, and why. No I/O.

use std::fmt;

use super::InitConfig;

/// Name of the table that holds all our rules, in family `inet`.
pub const TABLE: &str = "testimony";

/// Address type `local` of the kernel's routing table (`RTN_LOCAL`).
pub(super) const ADDRESS_TYPE_LOCAL: u32 = 2;

/// Index of the loopback interface: the same in every network namespace (`LOOPBACK_IFINDEX` of the kernel).
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// Both nat chains run where destinations are translated (`NF_IP_PRI_NAT_DST`, `dstnat` in nft's words).
pub(super) const PRIORITY_DSTNAT: i32 = -100;

/// Where a chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets that this network namespace makes.
    Output,
}

impl Hook {
    /// The kernel's number of the hook (`NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`).
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
        }
    }

    /// The chain's name, and nft's word for the hook.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        }
    }
}

/// One condition of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The sending socket was opened by this user.
    SocketUser(u32),
    /// The sending socket was opened by this group.
    SocketGroup(u32),
    /// The packet leaves through the loopback interface.
    OutLoopback,
    /// The packet arrived through the loopback interface.
    InLoopback,
    /// The destination is an address of this network namespace.
    DestinationLocal,
    /// The destination is no address of this network namespace.
    DestinationNotLocal,
    /// The packet is TCP.
    Tcp,
    /// The packet's destination port. Stands after [`Match::Tcp`]: other protocols keep other things at that offset.
    Port(u16),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SocketUser(uid) => write!(f, "meta skuid {uid}"),
            Self::SocketGroup(gid) => write!(f, "meta skgid {gid}"),
            Self::OutLoopback => f.write_str("oif \"lo\""),
            Self::InLoopback => f.write_str("iif \"lo\""),
            Self::DestinationLocal => f.write_str("fib daddr type local"),
            Self::DestinationNotLocal => f.write_str("fib daddr type != local"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
            Self::Port(port) => write!(f, "tcp dport {port}"),
        }
    }
}

/// What a rule does with a packet that meets all its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Leave it alone.
    Return,
    /// Send it to this port of this network namespace.
    Redirect(u16),
}

/// A rule. `Display` writes it in nft's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
}

impl Rule {
    fn new(matches: &[Match], action: Action) -> Self {
        Self { matches: matches.to_vec(), action }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        match self.action {
            Action::Return => f.write_str("return"),
            Action::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

/// A nat chain with its rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// The two chains of the table.
///
/// Order matters: the first rule that fits decides. UDP, ICMP and whatever is not TCP meet no rule. Inbound, a connection
/// to one of our own two listeners is redirected like any other: its original destination then says what it is, and the
/// proxy closes it; so nobody outside reaches the outbound listener. Only what is addressed to this network namespace is
/// redirected inbound: forwarded packets are neither into nor out of the pod, and redirecting them would let a
/// neighbour use the sidecar as a relay to anywhere.
pub(super) fn chains(config: &InitConfig) -> [Chain; 2] {
    let mut output = vec![
        // The loop guard needs user AND group, so that an application that happens to have our user id is still seen.
        Rule::new(&[Match::SocketUser(config.sidecar_uid), Match::SocketGroup(config.sidecar_gid)], Action::Return),
        Rule::new(&[Match::OutLoopback], Action::Return),
        Rule::new(&[Match::DestinationLocal], Action::Return),
    ];
    let excluded = |&port| Rule::new(&[Match::Tcp, Match::Port(port)], Action::Return);
    output.extend(config.exclude_outbound_ports.iter().map(excluded));
    output.push(Rule::new(&[Match::Tcp], Action::Redirect(config.outbound_port)));

    let prerouting = vec![
        Rule::new(&[Match::InLoopback], Action::Return),
        Rule::new(&[Match::DestinationNotLocal], Action::Return),
        Rule::new(&[Match::Tcp, Match::Port(config.admin_port)], Action::Return),
        Rule::new(&[Match::Tcp], Action::Redirect(config.inbound_port)),
    ];
    [Chain { hook: Hook::Output, rules: output }, Chain { hook: Hook::Prerouting, rules: prerouting }]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_rules_in_nft_words() {
        let config = InitConfig { exclude_outbound_ports: vec![6379], ..InitConfig::default() };
        let mut text = String::new();
        for chain in chains(&config) {
            text.push_str(&format!("chain {}\n", chain.hook.name()));
            for rule in &chain.rules {
                text.push_str(&format!("  {rule}\n"));
            }
        }
        expect![[r#"
            chain output
              meta skuid 62819 meta skgid 62820 return
              oif "lo" return
              fib daddr type local return
              meta l4proto tcp tcp dport 6379 return
              meta l4proto tcp redirect to :24802
            chain prerouting
              iif "lo" return
              fib daddr type != local return
              meta l4proto tcp tcp dport 24803 return
              meta l4proto tcp redirect to :24801
        "#]]
        .assert_eq(&text);
    }
}
