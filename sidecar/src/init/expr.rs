//! Rules as the kernel's virtual machine sees them: each condition loads something into a register and compares it.
//! Both directions: what we send, and what the kernel tells back. Pure.

use super::attr::{Attributes, Malformed, Writer};
use super::rules::{ADDRESS_TYPE_LOCAL, Action, LOOPBACK_INDEX, Match, Rule};

// Attribute types and values of linux/netfilter/nf_tables.h that libc does not name.
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_REG_PROTO_MAX: u16 = 2;
const NFTA_FIB_DREG: u16 = 1;
const NFTA_FIB_RESULT: u16 = 2;
const NFTA_FIB_FLAGS: u16 = 3;
const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
const FIB_FLAG_DESTINATION: u32 = 2;
const REGISTER: u32 = libc::NFT_REG_1 as u32;
const REGISTER_VERDICT: u32 = libc::NFT_REG_VERDICT as u32;
const VERDICT_RETURN: u32 = libc::NFT_RETURN as u32;
const BASE_TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;
const PORT_OFFSET_BYTES: u32 = 2;
const PORT_BYTES: u32 = 2;
const TCP: u8 = libc::IPPROTO_TCP as u8;

/// One instruction. Everything that a rule of ours needs, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expr {
    /// Load the packet's property with this key (`NFT_META_*`).
    Meta(u32),
    /// Load the type of the destination address.
    DestinationType,
    /// Load the destination port.
    DestinationPort,
    /// Go on only if the loaded value is equal (or, if not `equal`, is different).
    Compare { equal: bool, value: Vec<u8> },
    /// Load this constant.
    Load(Vec<u8>),
    /// Leave the chain.
    Return,
    /// Redirect to the loaded port.
    Redirect,
    /// An instruction that we never write: only ever read back.
    Foreign(String),
}

impl Expr {
    fn equal(value: &[u8]) -> Self {
        Self::Compare { equal: true, value: value.to_vec() }
    }

    /// Appends the instruction as a list element.
    pub(super) fn write(&self, out: &mut Writer) {
        out.nested(NFTA_LIST_ELEM, |element| {
            element.string(NFTA_EXPR_NAME, self.name());
            element.nested(NFTA_EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &str {
        match self {
            Self::Meta(_) => "meta",
            Self::DestinationType => "fib",
            Self::DestinationPort => "payload",
            Self::Compare { .. } => "cmp",
            Self::Load(_) | Self::Return => "immediate",
            Self::Redirect => "redir",
            Self::Foreign(name) => name,
        }
    }

    fn write_data(&self, data: &mut Writer) {
        match self {
            Self::Meta(key) => {
                data.be32(NFTA_META_DREG, REGISTER);
                data.be32(NFTA_META_KEY, *key);
            }
            Self::DestinationType => {
                data.be32(NFTA_FIB_DREG, REGISTER);
                data.be32(NFTA_FIB_RESULT, FIB_RESULT_ADDRESS_TYPE);
                data.be32(NFTA_FIB_FLAGS, FIB_FLAG_DESTINATION);
            }
            Self::DestinationPort => {
                data.be32(NFTA_PAYLOAD_DREG, REGISTER);
                data.be32(NFTA_PAYLOAD_BASE, BASE_TRANSPORT);
                data.be32(NFTA_PAYLOAD_OFFSET, PORT_OFFSET_BYTES);
                data.be32(NFTA_PAYLOAD_LEN, PORT_BYTES);
            }
            Self::Compare { equal, value } => {
                data.be32(NFTA_CMP_SREG, REGISTER);
                data.be32(NFTA_CMP_OP, u32::from(!*equal));
                data.nested(NFTA_CMP_DATA, |constant| constant.bytes(NFTA_DATA_VALUE, value));
            }
            Self::Load(value) => {
                data.be32(NFTA_IMMEDIATE_DREG, REGISTER);
                data.nested(NFTA_IMMEDIATE_DATA, |constant| constant.bytes(NFTA_DATA_VALUE, value));
            }
            Self::Return => {
                data.be32(NFTA_IMMEDIATE_DREG, REGISTER_VERDICT);
                data.nested(NFTA_IMMEDIATE_DATA, |constant| {
                    constant.nested(NFTA_DATA_VERDICT, |verdict| verdict.be32(NFTA_VERDICT_CODE, VERDICT_RETURN));
                });
            }
            Self::Redirect => data.be32(NFTA_REDIR_REG_PROTO_MIN, REGISTER),
            Self::Foreign(_) => {}
        }
    }

    /// Reads one list element. Whatever is not exactly an instruction of ours is [`Expr::Foreign`].
    fn read(element: Attributes<'_>) -> Result<Self, Malformed> {
        let name = element.string(NFTA_EXPR_NAME)?.ok_or(Malformed("an expression without a name"))?;
        let data = element.nested(NFTA_EXPR_DATA)?.unwrap_or(Attributes(&[]));
        Ok(Self::read_data(name, data)?.unwrap_or_else(|| Self::Foreign(name.to_owned())))
    }

    fn read_data(name: &str, data: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let is = |kind: u16, wanted: u32| -> Result<bool, Malformed> { Ok(data.be32(kind)? == Some(wanted)) };
        Ok(match name {
            "meta" if is(NFTA_META_DREG, REGISTER)? => data.be32(NFTA_META_KEY)?.map(Self::Meta),
            "fib" => (is(NFTA_FIB_DREG, REGISTER)?
                && is(NFTA_FIB_RESULT, FIB_RESULT_ADDRESS_TYPE)?
                && is(NFTA_FIB_FLAGS, FIB_FLAG_DESTINATION)?)
            .then_some(Self::DestinationType),
            "payload" => (is(NFTA_PAYLOAD_DREG, REGISTER)?
                && is(NFTA_PAYLOAD_BASE, BASE_TRANSPORT)?
                && is(NFTA_PAYLOAD_OFFSET, PORT_OFFSET_BYTES)?
                && is(NFTA_PAYLOAD_LEN, PORT_BYTES)?)
            .then_some(Self::DestinationPort),
            "cmp" if is(NFTA_CMP_SREG, REGISTER)? => Self::read_compare(data)?,
            "immediate" => Self::read_immediate(data)?,
            "redir" => {
                let last = data.be32(NFTA_REDIR_REG_PROTO_MAX)?;
                (is(NFTA_REDIR_REG_PROTO_MIN, REGISTER)? && last.is_none_or(|register| register == REGISTER))
                    .then_some(Self::Redirect)
            }
            _ => None,
        })
    }

    fn read_compare(data: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let equal = match data.be32(NFTA_CMP_OP)? {
            Some(0) => true,
            Some(1) => false,
            _ => return Ok(None),
        };
        let Some(constant) = data.nested(NFTA_CMP_DATA)? else { return Ok(None) };
        Ok(constant.find(NFTA_DATA_VALUE)?.map(|value| Self::Compare { equal, value: value.to_vec() }))
    }

    fn read_immediate(data: Attributes<'_>) -> Result<Option<Self>, Malformed> {
        let Some(constant) = data.nested(NFTA_IMMEDIATE_DATA)? else { return Ok(None) };
        match data.be32(NFTA_IMMEDIATE_DREG)? {
            Some(REGISTER) => Ok(constant.find(NFTA_DATA_VALUE)?.map(|value| Self::Load(value.to_vec()))),
            Some(REGISTER_VERDICT) => {
                let Some(verdict) = constant.nested(NFTA_DATA_VERDICT)? else { return Ok(None) };
                Ok((verdict.be32(NFTA_VERDICT_CODE)? == Some(VERDICT_RETURN)).then_some(Self::Return))
            }
            _ => Ok(None),
        }
    }
}

/// The instructions of a rule.
pub(super) fn compile(rule: &Rule) -> Vec<Expr> {
    let mut out = Vec::new();
    for condition in &rule.matches {
        out.extend(compile_match(*condition));
    }
    match rule.action {
        Action::Return => out.push(Expr::Return),
        Action::Redirect(port) => out.extend([Expr::Load(port.to_be_bytes().to_vec()), Expr::Redirect]),
    }
    out
}

/// Values that come from the packet are in network order, the kernel's own numbers in the host's.
fn compile_match(condition: Match) -> [Expr; 2] {
    let meta = |key: libc::c_int| Expr::Meta(key as u32);
    match condition {
        Match::SocketUser(uid) => [meta(libc::NFT_META_SKUID), Expr::equal(&uid.to_ne_bytes())],
        Match::SocketGroup(gid) => [meta(libc::NFT_META_SKGID), Expr::equal(&gid.to_ne_bytes())],
        Match::OutLoopback => [meta(libc::NFT_META_OIF), Expr::equal(&LOOPBACK_INDEX.to_ne_bytes())],
        Match::InLoopback => [meta(libc::NFT_META_IIF), Expr::equal(&LOOPBACK_INDEX.to_ne_bytes())],
        Match::DestinationLocal => [Expr::DestinationType, Expr::equal(&ADDRESS_TYPE_LOCAL.to_ne_bytes())],
        Match::DestinationNotLocal => {
            [Expr::DestinationType, Expr::Compare { equal: false, value: ADDRESS_TYPE_LOCAL.to_ne_bytes().to_vec() }]
        }
        Match::Tcp => [meta(libc::NFT_META_L4PROTO), Expr::equal(&[TCP])],
        Match::Port(port) => [Expr::DestinationPort, Expr::equal(&port.to_be_bytes())],
    }
}

/// Reads the instructions of a rule from its `NFTA_RULE_EXPRESSIONS`.
pub(super) fn read_list(list: Attributes<'_>) -> Result<Vec<Expr>, Malformed> {
    list.map(|element| element.and_then(|(_, value)| Expr::read(Attributes(value)))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_expr() -> impl Strategy<Value = Expr> {
        let value = || proptest::collection::vec(any::<u8>(), 1..16);
        prop_oneof![
            any::<u32>().prop_map(Expr::Meta),
            Just(Expr::DestinationType),
            Just(Expr::DestinationPort),
            (any::<bool>(), value()).prop_map(|(equal, value)| Expr::Compare { equal, value }),
            value().prop_map(Expr::Load),
            Just(Expr::Return),
            Just(Expr::Redirect),
            "[g-l][a-z]{0,8}".prop_filter("our own names", |name| name != "immediate").prop_map(Expr::Foreign),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(exprs in proptest::collection::vec(any_expr(), 0..8)) {
            let mut out = Writer::default();
            out.nested(1, |list| exprs.iter().for_each(|expr| expr.write(list)));
            let mut bytes = Vec::new();
            let header = super::super::attr::Header { kind: 0, flags: 0, sequence: 0 };
            super::super::attr::message(&mut bytes, header, 1, 0, &out);
            let message = super::super::attr::Messages(&bytes).next().expect("one").expect("well formed");
            let list = message.attributes().and_then(|all| all.nested(1)).expect("well formed").expect("present");
            prop_assert_eq!(read_list(list).expect("well formed"), exprs);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_list(Attributes(&bytes));
        }
    }
}
