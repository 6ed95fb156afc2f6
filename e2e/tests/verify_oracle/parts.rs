//! Parts of the golden ledger, as an export over a time holds them.

use super::{WithLedger, edit};

/// The ledger from each line on, as it is and tampered with in every line that is left.
pub fn cases(honest: &[String], roots: &str, ledger: &[String]) -> Vec<WithLedger> {
    let case = |name: String, ledger: Vec<String>, exact: bool| {
        let (bodies, roots) = (honest.to_vec(), roots.to_owned());
        WithLedger { name, bodies, roots, ledger, to_ns: None, exact }
    };
    let mut cases = Vec::new();
    for from in 1..ledger.len() {
        let part = &ledger[from..];
        cases.push(case(format!("ledger from line {from}"), part.to_vec(), true));
    }
    // From a block's first line on; and from one amid it.
    let blocks = ledger.iter().take(ledger.len() - 1).enumerate().filter(|(_, body)| body.contains("\"note\""));
    for from in blocks.flat_map(|(at, _)| [at + 1, at + 2]) {
        let part = &ledger[from..];
        for at in 0..part.len() {
            let mut other = part.to_vec();
            other.remove(at);
            cases.push(case(format!("ledger from line {from} without its line {at}"), other, false));
            if part[at].contains("\"t0\"") {
                let mut other = part.to_vec();
                other[at] = edit(&part[at], "t0", Some("1"));
                cases.push(case(format!("ledger from line {from}, line {at} with another time"), other.clone(), false));
                other.push(part[at].clone());
                cases.push(case(format!("ledger from line {from}, line {at} with an altered copy"), other, false));
            }
        }
    }
    cases
}

/// Reading can begin where all is restated, and behind that nowhere. `kinds`: what was found in the case of a name.
pub fn check(cases: &[WithLedger], kinds: impl Fn(&str) -> String) {
    let restates = |case: &WithLedger| case.ledger.iter().any(|body| body.contains("ledger-state"));
    let parts = cases.iter().filter(|case| case.exact && case.name.starts_with("ledger from line "));
    let (whole, without): (Vec<&WithLedger>, Vec<&WithLedger>) = parts.partition(|case| restates(case));
    assert!(!whole.is_empty() && !without.is_empty(), "{} and {}", whole.len(), without.len());
    for (case, unanchored) in whole.iter().map(|case| (case, false)).chain(without.iter().map(|case| (case, true))) {
        let part = kinds(&case.name);
        assert_eq!(part.contains("UNANCHORED"), unanchored, "{}: {part}", case.name);
        assert!(!part.contains("TAMPERED") && !part.contains("FOREIGN"), "{}: {part}", case.name);
    }
}
