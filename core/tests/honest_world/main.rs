//! What an honest cluster leaves is never called damaged, however it is looked at; what somebody removes, alters or adds always
//! is. `TESTIMONY_HONEST_SEEDS` sets how many clusters.

#[path = "../evidence_support/mod.rs"]
mod evidence_support;
mod pod;
mod world;

use pod::Line;
use std::collections::BTreeMap;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::verify::{Report, Scope, Settings, Trust, Verdict, judge_bodies};
use world::{Dice, HOUR_NS, SECOND_NS, World, ledger_key};

const HOURS: u64 = 34;

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("TESTIMONY_HONEST_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(2);
    let first = std::env::var("TESTIMONY_HONEST_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    first..first + count
}

/// What a backend and the cluster are asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Records and heads of this time.
    records_ns: (u64, u64),
    /// Entries of the ledger from this time on.
    ledger_from_ns: u64,
    /// What is looked at.
    scope: (Option<u64>, Option<u64>),
    /// When that is.
    now_ns: u64,
}

fn verified(world: &World, lines: &[&Line], asked: Asked) -> Report {
    let entries = world.ledger.iter().filter(|(at_ns, _)| (asked.ledger_from_ns..=asked.now_ns).contains(at_ns));
    let entries = entries.map(|(_, body)| body.as_str());
    let scope = Scope { from_ns: asked.scope.0, to_ns: asked.scope.1, ..Scope::default() };
    let settings = Settings { scope, now_ns: asked.now_ns, max_lag_ns: 10 * SECOND_NS, ..Settings::default() };
    let trust = Trust { ledger_keys: vec![ledger_key()], ..Trust::default() };
    judge_bodies(lines.iter().map(|line| line.body.as_str()).chain(entries), settings, trust)
}

fn exported(world: &World, asked: Asked) -> Vec<&Line> {
    let (from_ns, to_ns) = asked.records_ns;
    let there = |line: &&Line| line.sealed_ns <= asked.now_ns && (from_ns..=to_ns).contains(&line.time_ns);
    world.lines.iter().filter(there).collect()
}

/// All that was found but what may be.
fn beyond(report: &Report, may_be: &[Verdict]) -> Vec<String> {
    let found = report.findings.iter().filter(|finding| !may_be.contains(&finding.verdict));
    found.map(|finding| format!("{finding:?}")).collect()
}

/// All of it; the last day of it with the ledger of the same time, or of all time, or as the daily check is documented; a time
/// that is past.
fn looks(world: &World) -> [(&'static str, Asked); 6] {
    let now_ns = world.now_ns;
    let (day, hour) = (24 * HOUR_NS, HOUR_NS);
    let all = Asked { records_ns: (0, u64::MAX), ledger_from_ns: 0, scope: (None, None), now_ns };
    let last = Asked { records_ns: (now_ns - day - hour, now_ns), scope: (Some(now_ns - day), None), ..all };
    let more_ns = now_ns - day - 7 * hour;
    let past = (now_ns - 20 * hour, now_ns - 8 * hour);
    let past = Asked { records_ns: (past.0 - hour, past.1 + hour), scope: (Some(past.0), Some(past.1)), ..all };
    [
        ("all", all),
        ("all, looked at a day later", Asked { now_ns: now_ns + day, ..all }),
        ("the last day, and all of the ledger", last),
        ("the last day of both", Asked { ledger_from_ns: more_ns, ..last }),
        ("every day", Asked { records_ns: (more_ns, now_ns), ledger_from_ns: more_ns, ..last }),
        ("a past time", past),
    ]
}

#[test]
fn v1_v2_v3_what_an_honest_cluster_leaves_is_never_called_damaged() {
    for seed in seeds() {
        let world = World::new(seed, HOURS);
        for (what, asked) in looks(&world) {
            let report = verified(&world, &exported(&world, asked), asked);
            // Streams of pods that went with their node did not end in order, and one may have begun just now.
            let mut may_be = vec![Verdict::Unanchored, Verdict::Gap, Verdict::Unclosed, Verdict::Pending];
            if asked.scope != (None, None) {
                may_be.push(Verdict::Partial);
            }
            let found = beyond(&report, &may_be);
            assert!(found.is_empty(), "seed {seed}, {what}: {found:#?}");
            // A ledger of 7 hours more begins early enough, unless nobody kept it for a while.
            let from_ns = asked.scope.0.unwrap_or_default();
            let was_away = world.was_away(asked.ledger_from_ns, from_ns);
            assert!(was_away || !begins_late(&report), "seed {seed}, {what}: {:#?}", report.findings);
        }
    }
}

fn begins_late(report: &Report) -> bool {
    let mut told = report.findings.iter().filter(|finding| finding.verdict == Verdict::Unanchored);
    told.any(|finding| finding.message.contains("after the time that is looked at begins"))
}

#[test]
fn v3_w1_first_hours_that_are_removed_together_with_the_ledger_are_always_noticed() {
    for seed in seeds() {
        let world = World::new(seed, HOURS);
        for (what, asked) in looks(&world).into_iter().filter(|(what, _)| *what == "every day") {
            let from_ns = asked.scope.0.expect("a time");
            let places =
                world.ledger.iter().filter(|(at_ns, body)| *at_ns > from_ns && body.contains("\"ledger-state\""));
            for (restated_ns, _) in places {
                // Of each stream all goes before the last place ahead of that at which reading can begin.
                let mut begins: BTreeMap<&StreamId, u64> = BTreeMap::new();
                let lines = exported(&world, asked);
                let heads = lines.iter().filter(|line| line.seq.is_none() && line.body.contains("\"frontier\""));
                for head in heads.filter(|head| head.sealed_ns < *restated_ns) {
                    let begin = begins.entry(&*head.sid).or_default();
                    *begin = (*begin).max(head.sealed_ns);
                }
                let stays = |line: &&&Line| begins.get(&*line.sid).is_none_or(|begin| line.sealed_ns >= *begin);
                let left: Vec<&Line> = lines.iter().filter(stays).copied().collect();
                let report = verified(&world, &left, Asked { ledger_from_ns: *restated_ns, ..asked });
                assert!(begins_late(&report), "seed {seed}, {what}: {:#?}", report.findings);
            }
        }
    }
}

/// A head may be so late that it proves the record of a moment, and the ledger may have it later still.
const MARGIN_NS: u64 = 900 * SECOND_NS;

/// Records that must be there, and that the ledger's heads cover.
fn victims<'a>(world: &World, lines: &[&'a Line], asked: Asked, dice: &mut Dice) -> Vec<&'a Line> {
    let from_ns = asked.scope.0.map_or(0, |from_ns| from_ns + MARGIN_NS);
    let to_ns = asked.scope.1.unwrap_or(asked.now_ns) - MARGIN_NS;
    let may = |line: &&&Line| line.seq.is_some() && (from_ns..to_ns).contains(&line.sealed_ns);
    // What a pod took along is told, and what nobody was shown is known to nobody.
    let known: Vec<&&Line> = lines.iter().filter(may).filter(|line| world.is_shown(line)).collect();
    let at = usize::try_from(dice.below(known.len() as u64)).expect("few");
    let first = known[at];
    let longest = if dice.one_in(2) { 1 } else { 60 };
    let count = 1 + dice.below(longest);
    let last = first.seq.map(|seq| seq + count);
    known
        .into_iter()
        .filter(|line| line.sid == first.sid && line.seq >= first.seq && line.seq < last)
        .copied()
        .collect()
}

#[test]
fn v3_v4_what_somebody_removes_alters_or_adds_is_always_found() {
    for seed in seeds() {
        let world = World::new(seed, HOURS);
        let mut dice = Dice::new(seed ^ 0x5eed);
        for (what, asked) in looks(&world) {
            let lines = exported(&world, asked);
            for attack in ["remove", "alter", "add", "cut the tail"] {
                let hit = victims(&world, &lines, asked, &mut dice);
                let first = hit[0];
                let is_hit = |line: &&&Line| hit.iter().any(|one| one.sid == line.sid && one.seq == line.seq);
                let altered = Line { body: first.body.replacen("\"id\":\"0", "\"id\":\"1", 1), ..first.clone() };
                assert_ne!(altered.body, first.body);
                let mut left: Vec<&Line> = match attack {
                    "remove" => lines.iter().filter(|line| !is_hit(line)).copied().collect(),
                    "alter" => lines
                        .iter()
                        .map(|line| if is_hit(&line) && line.seq == first.seq { &altered } else { *line })
                        .collect(),
                    "add" => lines.iter().copied().chain([&altered]).collect(),
                    _ => {
                        let stays = |line: &&&Line| line.sid != first.sid || line.sealed_ns < first.sealed_ns;
                        lines.iter().filter(stays).copied().collect()
                    }
                };
                left.reverse();
                let report = verified(&world, &left, asked);
                let of = (&first.sid, first.seq, hit.len());
                assert_eq!(report.exit_code, 1, "seed {seed}, {what}, {attack} {of:?}: {:#?}", report.findings);
            }
        }
    }
}
