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
