//! The requests that we send to nf_tables, and the reading of its dumps. Pure.

use super::attr::{self, Attributes, Header, Malformed, Message, Writer};
use super::expr::{self, Expr};
use super::rules::{Chain, Hook, PRIORITY_DSTNAT, TABLE};

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub(super) const FAMILY_INET: u8 = libc::NFPROTO_INET as u8;

const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_NUMBER: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const POLICY_ACCEPT: u32 = libc::NF_ACCEPT as u32;
const CHAIN_TYPE: &str = "nat";

/// Sequence number of a batch's first message; the others count on from it.
const FIRST_SEQUENCE: u32 = 1;

/// A transaction: the kernel takes all of it or nothing.
pub(super) struct Batch {
    /// What goes to the kernel, in one datagram.
    pub(super) bytes: Vec<u8>,
    /// What each message does, in words for errors; message `n` has sequence number `FIRST_SEQUENCE + n`.
    steps: Vec<String>,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new() };
        batch.control("begin the transaction", libc::NFNL_MSG_BATCH_BEGIN as u16);
        batch
    }

    fn finish(mut self) -> Self {
        self.control("commit the transaction", libc::NFNL_MSG_BATCH_END as u16);
        self
    }

    fn control(&mut self, step: &str, kind: u16) {
        let header = self.next(step.to_owned(), kind, libc::NLM_F_REQUEST as u16);
        attr::message(&mut self.bytes, header, libc::AF_UNSPEC as u8, SUBSYSTEM, &Writer::default());
    }

    fn change(&mut self, step: String, kind: libc::c_int, flags: libc::c_int, body: &Writer) {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let header = self.next(step, message_kind(kind), flags);
        attr::message(&mut self.bytes, header, FAMILY_INET, 0, body);
    }

    fn next(&mut self, step: String, kind: u16, flags: u16) -> Header {
        let sequence = FIRST_SEQUENCE.saturating_add(self.steps.len() as u32);
        self.steps.push(step);
        Header { kind, flags, sequence }
    }

    fn table(&mut self, step: &str, kind: libc::c_int, flags: libc::c_int) {
        let mut body = Writer::default();
        body.string(NFTA_TABLE_NAME, TABLE);
        self.change(format!("{step} table inet {TABLE}"), kind, flags, &body);
    }

    /// How many acknowledgements the kernel sends for a batch that it took: one for each message between begin and end.
    pub(super) fn acknowledgements(&self) -> usize {
        self.steps.len().saturating_sub(2)
    }

    /// What the message with this sequence number does; `None` if it is none of this batch.
    pub(super) fn step(&self, sequence: u32) -> Option<&str> {
        let index = sequence.checked_sub(FIRST_SEQUENCE)?;
        self.steps.get(index as usize).map(String::as_str)
    }
}

fn message_kind(kind: libc::c_int) -> u16 {
    (SUBSYSTEM << 8) | kind as u16
}

/// Puts the table with these chains in place of whatever table of that name there is.
pub(super) fn install(chains: &[Chain]) -> Batch {
    let mut batch = Batch::new();
    // Deleting needs a table that exists, so one is added first: this way it does not matter whether there was one.
    batch.table("add", libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE);
    batch.table("delete the former", libc::NFT_MSG_DELTABLE, 0);
    batch.table("add", libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE);
    for chain in chains {
        add_chain(&mut batch, chain);
    }
    batch.finish()
}

/// Removes the table, if there is one.
pub(super) fn remove() -> Batch {
    let mut batch = Batch::new();
    batch.table("add", libc::NFT_MSG_NEWTABLE, libc::NLM_F_CREATE);
    batch.table("delete", libc::NFT_MSG_DELTABLE, 0);
    batch.finish()
}

fn add_chain(batch: &mut Batch, chain: &Chain) {
    let name = chain.hook.name();
    let mut body = Writer::default();
    body.string(NFTA_CHAIN_TABLE, TABLE);
    body.string(NFTA_CHAIN_NAME, name);
    body.nested(NFTA_CHAIN_HOOK, |hook| {
        hook.be32(NFTA_HOOK_NUMBER, chain.hook.number());
        hook.be32(NFTA_HOOK_PRIORITY, PRIORITY_DSTNAT as u32);
    });
    body.be32(NFTA_CHAIN_POLICY, POLICY_ACCEPT);
    body.string(NFTA_CHAIN_TYPE, CHAIN_TYPE);
    batch.change(format!("add nat chain {name}"), libc::NFT_MSG_NEWCHAIN, libc::NLM_F_CREATE, &body);
    for rule in &chain.rules {
        let mut body = Writer::default();
        body.string(NFTA_RULE_TABLE, TABLE);
        body.string(NFTA_RULE_CHAIN, name);
        body.nested(NFTA_RULE_EXPRESSIONS, |list| expr::compile(rule).iter().for_each(|each| each.write(list)));
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        batch.change(format!("add rule `{rule}` to chain {name}"), libc::NFT_MSG_NEWRULE, flags, &body);
    }
}

/// What can be asked back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dump {
    Chains,
    Rules,
}

impl Dump {
    /// The request for all objects of family `inet`.
    pub(super) fn request(self, sequence: u32) -> Vec<u8> {
        let kind = match self {
            Self::Chains => libc::NFT_MSG_GETCHAIN,
            Self::Rules => libc::NFT_MSG_GETRULE,
        };
        let header =
            Header { kind: message_kind(kind), flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, sequence };
        let mut out = Vec::new();
        attr::message(&mut out, header, FAMILY_INET, 0, &Writer::default());
        out
    }

    /// The kind of the messages that answer.
    fn answer(self) -> u16 {
        message_kind(match self {
            Self::Chains => libc::NFT_MSG_NEWCHAIN,
            Self::Rules => libc::NFT_MSG_NEWRULE,
        })
    }
}

/// A chain as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelChain {
    name: String,
    kind: String,
    hook: Option<u32>,
    priority: Option<i32>,
}

/// The table as the kernel has it; equal to [`Kernel::wanted`] when it holds what we sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    pub(super) chains: Vec<KernelChain>,
    /// (chain, instructions), in the order of evaluation within each chain.
    pub(super) rules: Vec<(String, Vec<Expr>)>,
}

impl Kernel {
    /// What the kernel has to tell back after [`install`] of these chains.
    pub(super) fn wanted(chains: &[Chain]) -> Self {
        let mut wanted = Self::default();
        for chain in chains {
            let Chain { hook, rules } = chain;
            wanted.chains.push(KernelChain::wanted(*hook));
            let name = || hook.name().to_owned();
            wanted.rules.extend(rules.iter().map(|rule| (name(), expr::compile(rule))));
        }
        wanted
    }

    /// Takes in one message of a dump. Those of other tables are left out.
    pub(super) fn add(&mut self, dump: Dump, message: &Message<'_>) -> Result<(), Malformed> {
        if message.header.kind != dump.answer() || message.family() != Some(FAMILY_INET) {
            return Ok(());
        }
        let attributes = message.attributes()?;
        let (table, missing) = match dump {
            Dump::Chains => (attributes.string(NFTA_CHAIN_TABLE)?, Malformed("a chain without a name")),
            Dump::Rules => (attributes.string(NFTA_RULE_TABLE)?, Malformed("a rule without a chain")),
        };
        if table != Some(TABLE) {
            return Ok(());
        }
        match dump {
            Dump::Chains => {
                let name = attributes.string(NFTA_CHAIN_NAME)?.ok_or(missing)?;
                let hook = attributes.nested(NFTA_CHAIN_HOOK)?.unwrap_or(Attributes(&[]));
                self.chains.push(KernelChain {
                    name: name.to_owned(),
                    kind: attributes.string(NFTA_CHAIN_TYPE)?.unwrap_or_default().to_owned(),
                    hook: hook.be32(NFTA_HOOK_NUMBER)?,
                    priority: hook.be32(NFTA_HOOK_PRIORITY)?.map(|bits| bits as i32),
                });
            }
            Dump::Rules => {
                let chain = attributes.string(NFTA_RULE_CHAIN)?.ok_or(missing)?;
                let list = attributes.nested(NFTA_RULE_EXPRESSIONS)?.unwrap_or(Attributes(&[]));
                self.rules.push((chain.to_owned(), expr::read_list(list)?));
            }
        }
        Ok(())
    }
}

impl KernelChain {
    fn wanted(hook: Hook) -> Self {
        Self {
            name: hook.name().to_owned(),
            kind: CHAIN_TYPE.to_owned(),
            hook: Some(hook.number()),
            priority: Some(PRIORITY_DSTNAT),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{expect, expect_file};

    use super::super::InitConfig;
    use super::super::attr::Messages;
    use super::super::rules;
    use super::*;

    /// Sixteen bytes a line, each message on lines of its own with what it does.
    fn hex(batch: &Batch) -> String {
        let mut text = String::new();
        let mut rest = batch.bytes.as_slice();
        while let Some((length, _)) = rest.split_first_chunk::<4>() {
            let (message, after) = rest.split_at(u32::from_ne_bytes(*length) as usize);
            let header = Messages(message).next().expect("one").expect("well formed").header;
            text.push_str(&format!("# {}\n", batch.step(header.sequence).expect("a step")));
            for line in message.chunks(16) {
                let bytes: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
                text.push_str(&format!("{}\n", bytes.join(" ")));
            }
            rest = after;
        }
        text
    }

    /// The golden bytes are those of a little-endian machine, as all that we ship for are.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_bytes_of_the_batches() {
        let config = InitConfig { exclude_outbound_ports: vec![6379], ..InitConfig::default() };
        expect_file!["testdata/install.hex"].assert_eq(&hex(&install(&rules::chains(&config))));
        expect![[r#"
        "#]]
        .assert_eq(&hex(&remove()));
    }

    #[test]
    fn a_batch_read_back_is_what_was_wanted() {
        let chains = rules::chains(&InitConfig::default());
        let batch = install(&chains);
        let mut kernel = Kernel::default();
        for message in Messages(&batch.bytes) {
            let message = message.expect("well formed");
            kernel.add(Dump::Chains, &message).expect("chains");
            kernel.add(Dump::Rules, &message).expect("rules");
        }
        assert_eq!(kernel, Kernel::wanted(&chains));
        assert_eq!(batch.acknowledgements(), 3 + 2 + 4 + 4);
    }

    #[test]
    fn sequence_numbers_outside_the_batch_are_no_step() {
        let batch = remove();
        let words: Vec<_> = (0..6).map(|sequence| batch.step(sequence)).collect();
        assert_eq!(
            words,
            [
                None,
                Some("begin the transaction"),
                Some("add table inet testimony"),
                Some("delete table inet testimony"),
                Some("commit the transaction"),
                None
            ]
        );
    }
}
