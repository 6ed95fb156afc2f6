//! Bodies of ledgers as rows that are sorted by their bytes: by ledger, then by the place that they claim. So a ledger of any length
//! is read in one pass, and whoever sorts outside of memory holds little of it; what is there twice stands side by side.

use super::LEDGER;
use super::entry::TYPE_PREFIX;
use crate::canon::parse_body;
use crate::evidence::note::SignedNote;
use crate::evidence::stream::StreamId;

/// Stands between a ledger's name, which does not hold it, and the rest of a row.
const END_OF_NAME: u8 = 0;

/// What a row is to its place, in the order in which they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::evidence) enum Role {
    /// The body claims to be the entry.
    Entry,
    /// The body is a head, of which the entry is the last one.
    Head,
    /// Some body says that a witness outside cosigned such a head; that body stands further behind.
    Cosigned,
}

/// A row that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::evidence) struct Row<'a> {
    pub(in crate::evidence) ledger: &'a str,
    /// The place.
    pub(in crate::evidence) seq: u64,
    pub(in crate::evidence) role: Role,
    /// Of [`Role::Cosigned`] it is empty.
    pub(in crate::evidence) body: &'a [u8],
}

impl<'a> Row<'a> {
    /// `None`: it is no row.
    pub(in crate::evidence) fn read(row: &'a [u8]) -> Option<Self> {
        let end = row.iter().position(|byte| *byte == END_OF_NAME)?;
        let (name, rest) = row.split_at_checked(end)?;
        let (seq, rest) = rest.get(1..)?.split_first_chunk::<8>()?;
        let (role, body) = rest.split_first()?;
        let role = match role {
            0 => Role::Entry,
            1 => Role::Head,
            2 => Role::Cosigned,
            _ => return None,
        };
        Some(Self { ledger: std::str::from_utf8(name).ok()?, seq: u64::from_be_bytes(*seq), role, body })
    }

    fn write(self) -> Vec<u8> {
        let Self { ledger, seq, role, body } = self;
        let role: u8 = match role {
            Role::Entry => 0,
            Role::Head => 1,
            Role::Cosigned => 2,
        };
        let parts: [&[u8]; 5] = [ledger.as_bytes(), &[END_OF_NAME], &seq.to_be_bytes(), &[role], body];
        parts.concat()
    }
}

/// Gives the rows of one body; of one that belongs to no ledger there are none. Tells whether it claims to be an entry.
pub fn rows(body: &[u8], mut give: impl FnMut(&[u8])) -> bool {
    let Ok(fields) = parse_body(body) else { return false };
    let text = |key: &str| fields.get(key).and_then(|value| std::str::from_utf8(value).ok());
    let note = || Some(SignedNote::from_base64(text("note")?)?.checkpoint);
    let typ = text("typ").unwrap_or_default();
    if typ == "head" {
        if let Some(head) = note()
            && let Some(seq) = head.size.checked_sub(1)
            && head.origin.parse::<StreamId>().is_ok()
        {
            give(&Row { ledger: &head.origin, seq, role: Role::Head, body }.write());
        }
        return false;
    }
    let Some((name, seq)) = text("sid").zip(text("seq").and_then(|seq| seq.parse().ok())) else { return false };
    let Ok(sid) = name.parse::<StreamId>() else { return false };
    let is_ledger = sid.parts().is_some_and(|parts| parts.pod_uid == LEDGER);
    if !typ.starts_with(TYPE_PREFIX) && !is_ledger {
        return false;
    }
    give(&Row { ledger: name, seq, role: Role::Entry, body }.write());
    if typ == "ledger-witnessed"
        && let Some(seq) = note().and_then(|head| head.size.checked_sub(1))
    {
        give(&Row { ledger: name, seq, role: Role::Cosigned, body: &[] }.write());
    }
    true
}

/// The rows of bodies in any order, sorted, each once; in memory.
pub fn sorted<'a>(bodies: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for body in bodies {
        rows(body, |row| all.push(row.to_vec()));
    }
    all.sort_unstable();
    all.dedup();
    all
}
