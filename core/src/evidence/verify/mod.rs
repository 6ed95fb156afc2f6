//! Verification: whether what a backend gives back is what was sealed, and all of it (V1 to V4).
//!
//! Two steps, so that the shell can sort in between without holding everything in memory: [`Intake`] makes rows of bodies, in
//! any order; [`Verification`] takes the rows sorted as bytes, and judges stream after stream. Pure: files, X.509 and the clock
//! belong to the shell.

mod absence;
mod behind;
mod branch;
mod chain;
mod conclude;
mod condition;
mod crowd;
mod effects;
mod epoch;
mod fact;
mod findings;
mod found;
mod group;
mod heads;
mod inside;
mod intake;
mod judge;
mod ledger;
mod names;
mod older;
mod part;
mod projection;
mod read;
mod report;
mod settle;
mod sorted;
mod tail;
mod time;
mod trust;
mod verdict;
mod whole;

pub use fact::{Ended, Fact, Life, Place, ROW_KEY_BYTES, Source, StreamNo};
pub use findings::FINDINGS_MAX;
pub use intake::{Intake, LEDGER_BYTES_MAX, is_shaped};
pub use judge::{Scope, Settings, Verification};
pub use projection::{Projector, Shape, Stored, Value};
pub use read::{ReadError, resource_digest};
pub use report::{Exposure, External, Report, StreamReport};
pub use sorted::{Asked, Rows};
pub use trust::{Basis, Certificates, ExpectedPod, Ledger, LedgerStream, MissingEntries, Trust, Uncovered, Witness};
pub use verdict::{Finding, Verdict};
pub use whole::judge_bodies;

#[cfg(test)]
mod any_tests;
#[cfg(test)]
mod behind_tests;
#[cfg(test)]
mod crowd_tests;
#[cfg(test)]
mod findings_tests;
#[cfg(test)]
mod holes_tests;
#[cfg(test)]
mod inside_tests;
#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod part_tests;
#[cfg(test)]
mod past_tests;
#[cfg(test)]
mod pushed_tests;
#[cfg(test)]
mod removed_tests;
#[cfg(test)]
mod restated_tests;
#[cfg(test)]
mod sorted_tests;
#[cfg(test)]
mod stranded_tests;
#[cfg(test)]
mod stranger_tests;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod void_tests;
#[cfg(test)]
mod window_tests;
