//! Which of several records that claim one place of a stream it has: anybody who may send OTLP can push one beside the genuine one.
//!
//! A record names the one before it, so that each that claims a place belongs to one history alone. All of them are grown at once,
//! place by place, and a head that the stream's key signed says which one the stream has. Where the export lacks the begin, the first
//! key that is named is taken as it is: that is no worse than the key of whoever pushes a begin, and neither wins over the other.

use super::plan::PlanError;
use super::vouch::{Voucher, Walk};
use crate::evidence::hash::Hash;
use crate::evidence::stream::StreamId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Most records that may claim one place of a stream that is ordered from; a history takes about 1 KiB.
const CLAIMS_MAX: usize = 1_024;

/// One record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) prev: Option<Hash>,
    /// It is meant.
    pub(super) goes: bool,
}

/// Records of one stream, by place and hash.
pub(super) type Claims = BTreeMap<(u64, Hash), Known>;

/// Up to a place.
struct Way {
    walk: Walk,
    /// Where it begins.
    from: u64,
}

/// Keeps of the records of a stream one for each place.
///
/// # Errors
/// Nothing tells which of those that claim a place is genuine, or both histories are signed.
pub(super) fn settle(sid: &StreamId, voucher: &Voucher, claims: &mut Claims) -> Result<(), PlanError> {
    if is_plain(claims) {
        return Ok(());
    }
    let proved = proved(sid, voucher, claims)?;
    let mut dropped: BTreeSet<(u64, Hash)> = BTreeSet::new();
    let mut at = 0;
    while let Some((seq, of_place)) = place(claims, at) {
        if let Some(wanted) = proved.get(&seq) {
            dropped.extend(of_place.iter().filter(|(leaf, _)| leaf != wanted).map(|(leaf, _)| (seq, *leaf)));
        } else {
            let before = seq.checked_sub(1).and_then(|before| proved.get(&before));
            // What does not follow a record that is proved is none of this stream.
            let (follow, others): (Vec<_>, Vec<_>) =
                of_place.into_iter().partition(|(_, known)| before.is_none() || known.prev.as_ref() == before);
            // Nor is what one that is proved does not name.
            let is_named = seq.checked_add(1).is_none_or(|after| !proved.contains_key(&after));
            if is_named && follow.len() > 1 && follow.iter().any(|(_, known)| known.goes) {
                return Err(PlanError::Twice(sid.clone(), seq));
            }
            dropped.extend(follow.iter().skip(1).chain(&others).map(|(leaf, _)| (seq, *leaf)));
        }
        let Some(next) = seq.checked_add(1) else { break };
        at = next;
    }
    claims.retain(|(seq, leaf), _| !dropped.contains(&(*seq, *leaf)));
    Ok(())
}

/// Whether no place is claimed twice, and each record follows the one before, if that is there.
fn is_plain(claims: &Claims) -> bool {
    let mut before: Option<(u64, Hash)> = None;
    claims.iter().all(|((seq, leaf), known)| {
        let fits = before.is_none_or(|(last, hash)| match seq.checked_sub(last) {
            Some(0) => false,
            Some(1) => known.prev == Some(hash),
            _ => true,
        });
        before = Some((*seq, *leaf));
        fits
    })
}

/// The first place from there on that is claimed, and by what.
fn place(claims: &Claims, at: u64) -> Option<(u64, Vec<(Hash, Known)>)> {
    let ((seq, _), _) = claims.range((at, Hash([0; 32]))..).next()?;
    let of_place = claims.range((*seq, Hash([0; 32]))..=(*seq, Hash([0xff; 32])));
    Some((*seq, of_place.map(|((_, leaf), known)| (*leaf, *known)).collect()))
}

/// Of each place that a signed head covers the record that it proves.
fn proved(sid: &StreamId, voucher: &Voucher, claims: &Claims) -> Result<BTreeMap<u64, Hash>, PlanError> {
    let mut proved: BTreeMap<u64, Hash> = BTreeMap::new();
    // What is proved of ways that begin in the middle: their first place, the last one, and what stands there.
    let mut middle: Vec<(u64, u64, Hash)> = Vec::new();
    let mut ways: HashMap<Hash, Way> = HashMap::new();
    let mut at = 0;
    while let Some((seq, of_place)) = place(claims, at) {
        if of_place.len() > CLAIMS_MAX {
            return Err(PlanError::Twice(sid.clone(), seq));
        }
        if seq != at {
            ways.clear();
        }
        let is_alone = of_place.len() == 1;
        let mut next: HashMap<Hash, Way> = HashMap::with_capacity(of_place.len());
        for (leaf, known) in of_place {
            let follows = known.prev.and_then(|prev| match is_alone {
                true => ways.remove(&prev),
                false => ways.get(&prev).map(|way| Way { walk: way.walk.clone(), from: way.from }),
            });
            let mut way = follows.unwrap_or_else(|| Way { walk: Walk::default(), from: seq });
            // What a head denies does not matter here: another way may be the genuine one.
            way.walk.found.contradicted = Some(seq);
            way.walk.step(voucher, sid, seq, leaf);
            if way.walk.found.last == Some(seq) {
                match way.from {
                    0 => lead_back(sid, claims, &mut proved, (seq, leaf))?,
                    from => middle.push((from, seq, leaf)),
                }
            }
            next.insert(leaf, way);
        }
        ways = next;
        let Some(after) = seq.checked_add(1) else { break };
        at = after;
    }
    // A signed history that does not follow the one that is proved from its begin: who pushed which, the export does not tell. It may
    // lack the genuine begin.
    let end = proved.keys().next_back().map_or(0, |last| last.saturating_add(1));
    for (from, seq, leaf) in middle {
        if (1..=end).contains(&from) {
            return Err(PlanError::Signed(sid.clone(), from));
        }
        lead_back(sid, claims, &mut proved, (seq, leaf))?;
    }
    Ok(proved)
}

/// Notes down all that this record leads back to.
fn lead_back(
    sid: &StreamId,
    claims: &Claims,
    proved: &mut BTreeMap<u64, Hash>,
    (seq, leaf): (u64, Hash),
) -> Result<(), PlanError> {
    let mut at = Some((seq, leaf));
    while let Some((seq, leaf)) = at {
        match proved.insert(seq, leaf) {
            Some(known) if known == leaf => break,
            Some(_) => return Err(PlanError::Signed(sid.clone(), seq)),
            None => {}
        }
        let before = seq.checked_sub(1).zip(claims.get(&(seq, leaf)).and_then(|known| known.prev));
        at = before.filter(|before| claims.contains_key(before));
    }
    Ok(())
}
