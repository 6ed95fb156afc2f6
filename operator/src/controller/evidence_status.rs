//! How the evidence of a policy's pods stands, from what their sidecars tell. Pure.

use crate::api::{AuditPolicyStatus, EvidenceCounts};
use testimony_core::policy::EvidenceState;

/// Sums up what sidecars told; `None`: none did.
pub(super) fn sum(told: impl Iterator<Item = EvidenceState>) -> Option<EvidenceCounts> {
    told.fold(None, |sum, one| {
        let sum = sum.unwrap_or_default();
        let gaps = i64::try_from(one.gap_exchanges).unwrap_or(i64::MAX);
        Some(EvidenceCounts {
            sidecars: sum.sidecars.saturating_add(1),
            gaps: sum.gaps.saturating_add(gaps),
            streams: sum.streams.saturating_add(i64::from(one.streams)),
            unanchored: sum.unanchored.saturating_add(i64::from(one.unanchored)),
        })
    })
}

/// What a new leader says that has not heard all: no less than what was counted last.
pub(super) fn at_least(known: Option<EvidenceCounts>, before: Option<&EvidenceCounts>) -> Option<EvidenceCounts> {
    match (known, before) {
        (Some(known), Some(before)) => Some(EvidenceCounts {
            sidecars: known.sidecars.max(before.sidecars),
            gaps: known.gaps.max(before.gaps),
            streams: known.streams.max(before.streams),
            unanchored: known.unanchored.max(before.unanchored),
        }),
        (known, before) => known.or_else(|| before.cloned()),
    }
}

/// Whether the status differs from the known one in more than how much of something there is.
pub(super) fn is_news(known: &AuditPolicyStatus, status: &AuditPolicyStatus) -> bool {
    let kinds = |of: &AuditPolicyStatus| of.evidence.as_ref().map(|counts| (counts.gaps > 0, counts.unanchored > 0));
    let same = AuditPolicyStatus { evidence: known.evidence.clone(), ..status.clone() };
    same != *known || kinds(known) != kinds(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sidecars: i64, gaps: i64, streams: i64, unanchored: i64) -> EvidenceCounts {
        EvidenceCounts { sidecars, gaps, streams, unanchored }
    }

    #[test]
    fn what_sidecars_tell_is_added_up_and_never_overflows() {
        let told = |gap_exchanges, streams, unanchored| EvidenceState { gap_exchanges, streams, unanchored };
        assert_eq!(sum(std::iter::empty()), None);
        let two = [told(3, 2, 1), told(4, 1, 0)];
        assert_eq!(sum(two.into_iter()), Some(counts(2, 7, 3, 1)));
        let huge = [told(u64::MAX, 1, 1), told(u64::MAX, 1, 1)];
        assert_eq!(sum(huge.into_iter()), Some(counts(2, i64::MAX, 2, 2)));
    }

    #[test]
    fn a_new_leader_says_no_less_than_was_counted() {
        let before = counts(3, 5, 3, 0);
        assert_eq!(at_least(None, Some(&before)), Some(before.clone()));
        assert_eq!(at_least(Some(counts(1, 9, 1, 1)), Some(&before)), Some(counts(3, 9, 3, 1)));
        assert_eq!(at_least(Some(counts(1, 0, 1, 0)), None), Some(counts(1, 0, 1, 0)));
        assert_eq!(at_least(None, None), None);
    }

    #[test]
    fn the_first_gap_is_news_and_more_of_them_wait() {
        let with = |evidence| AuditPolicyStatus { evidence, ..AuditPolicyStatus::default() };
        let well = with(Some(counts(1, 0, 1, 0)));
        for (news, other) in [
            (true, with(None)),
            (true, with(Some(counts(1, 1, 1, 0)))),
            (true, with(Some(counts(1, 0, 1, 1)))),
            (false, with(Some(counts(2, 0, 2, 0)))),
            (true, AuditPolicyStatus { observed_generation: Some(2), ..well.clone() }),
        ] {
            assert_eq!(is_news(&well, &other), news, "{other:?}");
        }
        assert!(!is_news(&with(Some(counts(1, 1, 1, 1))), &with(Some(counts(1, 2, 2, 2)))));
    }
}
