//! The autoscaler's list of volumes: ours come after those of the pod's own, and are found again to take them away.

/// The list with `ours` behind it. With `again`, what an earlier injection wrote stays as it is.
pub(super) fn with(own: Option<&str>, ours: &str, again: bool) -> String {
    match own {
        None => ours.to_owned(),
        Some(own) if again && position(own, ours).is_some() => own.to_owned(),
        Some(own) => format!("{own},{ours}"),
    }
}

/// The list as it was before: `None` where there was none. A list without ours stays.
pub(super) fn without(list: &str, ours: &str) -> Option<String> {
    let Some(at) = position(list, ours) else { return Some(list.to_owned()) };
    let (before, after) = (list.get(..at).unwrap_or_default(), list.get(at + ours.len()..).unwrap_or_default());
    if at == 0 {
        // What came behind ours since is somebody else's.
        return after.strip_prefix(',').map(str::to_owned);
    }
    Some(format!("{}{after}", before.strip_suffix(',').unwrap_or(before)))
}

/// Where ours begin: the last place at which they stand as whole names.
fn position(list: &str, ours: &str) -> Option<usize> {
    let is_whole = |at: &usize| {
        let (before, after) = (list.get(..*at).unwrap_or_default(), list.get(at + ours.len()..).unwrap_or_default());
        (before.is_empty() || before.ends_with(',')) && (after.is_empty() || after.starts_with(','))
    };
    list.rmatch_indices(ours).map(|(at, _)| at).find(is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: &str = "testimony-state,testimony-key";

    #[test]
    fn d5_ours_stand_behind_those_of_the_pod_and_are_taken_away_alone() {
        assert_eq!(with(None, OURS, false), OURS);
        assert_eq!(with(Some("cache,tmp"), OURS, false), format!("cache,tmp,{OURS}"));
        assert_eq!(
            with(Some(&format!("cache,{OURS}")), OURS, true),
            format!("cache,{OURS}"),
            "as an earlier one wrote it"
        );
        assert_eq!(with(Some("cache"), OURS, true), format!("cache,{OURS}"), "a pod that was written to look injected");
        assert_eq!(without(OURS, OURS), None);
        assert_eq!(without(&format!("{OURS},late"), OURS).as_deref(), Some("late"));
        assert_eq!(without(&format!("cache,{OURS},late"), OURS).as_deref(), Some("cache,late"));
        assert_eq!(
            without("cache,x-testimony-state,testimony-key", OURS).as_deref(),
            Some("cache,x-testimony-state,testimony-key")
        );
        assert_eq!(without("cache", OURS).as_deref(), Some("cache"), "injected by an earlier version");
    }

    proptest! {
        #[test]
        fn op_2_any_list_comes_back(own in proptest::option::of("[a-z, \"-]{0,12}|testimony-state,testimony-key|,")) {
            let merged = with(own.as_deref(), OURS, false);
            prop_assert_eq!(without(&merged, OURS), own);
        }
    }
}
