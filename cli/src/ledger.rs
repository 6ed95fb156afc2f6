//! `ledger`: the operator's ledger, read from its blocks in the cluster.

use crate::args::{ClusterArgs, Format, LedgerCommand, LedgerShowArgs};
use crate::cluster::Cluster;
use crate::output::{Table, json_lines, print, print_data, print_json, printable, tell};
use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::{Timestamp, Unit};
use kube::api::{Api, ListParams};
use serde::Serialize;
use std::path::Path;
use testimony_core::evidence::ledger::entry::Entry;
use testimony_core::evidence::ledger::export::{head_body, otlp_line, read_bodies};
use testimony_core::evidence::ledger::read::Summary;
use testimony_core::evidence::ledger::{Block, Fact, Life, Pruned};
use testimony_core::evidence::roots::Roots;
use testimony_core::evidence::stream::StreamId;
use testimony_operator::witness::store::{BLOCK_LABEL, block};

/// Runs the command.
///
/// # Errors
/// The cluster is not reached, there is no ledger, or it is not whole.
pub async fn run(command: &LedgerCommand, cluster: &ClusterArgs) -> Result<u8> {
    match command {
        // Says what it would do before it needs the cluster.
        LedgerCommand::Prune(args) => return crate::prune::run(args, cluster).await,
        LedgerCommand::Export(args) => {
            let cluster = Cluster::connect(cluster).await?;
            let blocks = blocks(&cluster, &args.operator_namespace).await?;
            print_data(&json_lines(&export(&blocks)?))?;
            if let Some(begin) = begin(&blocks)? {
                tell(begin);
            }
        }
        LedgerCommand::Show(args) => {
            // What is wrong with the file needs no cluster.
            let given = args.roots.as_deref().map(file_roots).transpose()?;
            let cluster = Cluster::connect(cluster).await?;
            let blocks = blocks(&cluster, &args.operator_namespace).await?;
            let roots = match given {
                Some(roots) => roots,
                None => crate::roots::read(&cluster, &args.operator_namespace).await?,
            };
            show(args, &Said::of(&blocks, &roots)?)?;
        }
    }
    Ok(0)
}

fn file_roots(file: &Path) -> Result<Roots> {
    let named = || format!("--roots {}", file.display());
    let text = crate::verify::given_text(file).with_context(named)?;
    Roots::parse(&text).with_context(named)
}

/// Blocks of one page of a list: each has up to 512 KiB.
const PAGE_BLOCKS: u32 = 64;

/// All blocks, in order.
///
/// # Errors
/// The cluster is not reached, or there is no ledger.
pub async fn blocks(cluster: &Cluster, operator_namespace: &str) -> Result<Vec<Block>> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), operator_namespace);
    let params = ListParams::default().labels(&format!("{BLOCK_LABEL}=true"));
    let mut blocks = Vec::new();
    for object in cluster.list_by(PAGE_BLOCKS, "configmaps", api, params).await? {
        blocks.push(block(object)?);
    }
    if blocks.is_empty() {
        bail!("no ledger in namespace {operator_namespace}: name the installation's with --operator-namespace");
    }
    blocks.sort_by_key(|block| block.number);
    Ok(blocks)
}

fn first(blocks: &[Block]) -> Result<Entry> {
    let first = blocks.first().and_then(|block| block.entries.lines().next()).unwrap_or_default();
    Entry::parse(first.as_bytes()).map_err(|problem| anyhow!("the ledger's first block: {problem}"))
}

/// The ledger's name.
fn name(blocks: &[Block]) -> Result<StreamId> {
    Ok(first(blocks)?.sid)
}

/// What must be known of an export without the first entries: of a busy cluster it holds no day.
fn begin(blocks: &[Block]) -> Result<Option<String>> {
    let first = first(blocks)?;
    let at = Timestamp::from_nanosecond(first.at_ns.into())?.round(Unit::Second)?;
    let told = format!(
        "the cluster keeps the ledger's newest blocks alone, from {at} on: for `testimony verify --scope from=...` with an earlier \
         time, take the ledger from a backend that the operator sends it to"
    );
    Ok(Some(told).filter(|_| first.seq > 0))
}

/// OTLP JSON lines, one for each block.
///
/// # Errors
/// A block holds no entries.
pub fn export(blocks: &[Block]) -> Result<String> {
    let sid = name(blocks)?;
    let mut out = String::new();
    for block in blocks {
        let line = otlp_line(block, &sid).map_err(|problem| anyhow!("block {}: {problem}", block.number))?;
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out)
}

/// What the ledger says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Its name.
    pub ledger: String,
    /// Entries that are proved.
    pub entries: u64,
    /// The first of them that is there.
    pub from: u64,
    /// Streams that go on, closed, and lost.
    pub streams: Counts,
    /// Expected pods that are there and have shown no stream.
    pub silent: Vec<String>,
    /// Streams without an end whose pods are gone.
    pub lost: Vec<String>,
    /// Pods that are not covered now: namespace, name and reason.
    pub uncovered: Vec<String>,
    /// Records that were removed by order: which, why and by whom.
    pub pruned: Vec<String>,
    /// What needs a look: heads that contradict each other, or that the ledger had forgotten.
    pub alarms: Vec<String>,
}

/// How many streams there are.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// They go on.
    pub live: usize,
    /// They showed their end.
    pub closed: usize,
    /// They did not, and their pods are gone.
    pub lost: usize,
}

impl Said {
    /// Checks the blocks with the roots.
    ///
    /// # Errors
    /// They are no whole ledger of these roots.
    pub fn of(blocks: &[Block], roots: &Roots) -> Result<Self> {
        let sid = name(blocks)?;
        let named = roots.ledgers.iter().find(|named| named.name == sid.as_str());
        let key = named.map(|named| named.key).ok_or_else(|| anyhow!("the roots hold no key of ledger {sid}"))?;
        let heads: Vec<Vec<u8>> = blocks.iter().map(|block| head_body(&block.note)).collect();
        let entries = blocks.iter().flat_map(|block| block.entries.lines()).map(str::as_bytes);
        let summary = read_bodies(&sid, key, entries.chain(heads.iter().map(Vec::as_slice)));
        let summary = summary.map_err(|problem| anyhow!("the ledger is not whole: {problem}"))?;
        if summary.unproved > 0 {
            bail!("the ledger is not whole: {} entries stand behind its last signed head", summary.unproved);
        }
        Ok(Self::from_summary(&sid, &summary))
    }

    fn from_summary(sid: &StreamId, summary: &Summary) -> Self {
        let mut streams = Counts::default();
        for said in summary.streams.values() {
            match said.life {
                Life::Open => streams.live += 1,
                Life::Closed => streams.closed += 1,
                Life::Lost => streams.lost += 1,
            }
        }
        let shown = |uid: &str| {
            let mut of =
                summary.streams.iter().filter(|(sid, _)| sid.parts().is_some_and(|parts| parts.pod_uid == uid));
            of.any(|(_, said)| said.size > 0)
        };
        let there = summary.pods.values().filter(|said| said.to_ns.is_none());
        let lost = summary.streams.iter().filter(|(_, said)| said.life == Life::Lost);
        let uncovered = summary.uncovered.iter().filter(|(_, to)| to.is_none());
        Self {
            ledger: sid.to_string(),
            entries: summary.size,
            from: summary.from,
            streams,
            silent: there
                .filter(|said| !shown(&said.pod.uid))
                .map(|said| format!("{}/{}", said.pod.namespace, said.pod.name))
                .collect(),
            lost: lost.map(|(sid, said)| format!("{sid} at {} records", said.size)).collect(),
            uncovered: uncovered.map(|(pod, _)| format!("{}/{} ({})", pod.namespace, pod.name, pod.reason)).collect(),
            pruned: summary.others.iter().filter_map(|(seq, fact)| pruned(*seq, fact)).collect(),
            alarms: summary.others.iter().filter_map(|(seq, fact)| alarm(*seq, fact)).collect(),
        }
    }
}

fn pruned(seq: u64, fact: &Fact) -> Option<String> {
    let (Fact::Pruned(order) | Fact::Erased(order)) = fact else { return None };
    let Pruned { sid, range, reason, by } = order;
    let last = range.end().saturating_sub(1);
    let (reason, by) = (printable(reason), printable(by));
    Some(format!("entry {seq}: records {} to {last} of {sid}: {reason}, by {by}", range.begin()))
}

fn alarm(seq: u64, fact: &Fact) -> Option<String> {
    match fact {
        Fact::Fork(sid, _) => Some(format!("entry {seq}: stream {sid} showed two heads of one size")),
        Fact::Rebased(sid, (old, _), (size, _), _) => {
            Some(format!("entry {seq}: the ledger knew {old} records of {sid}, and had cosigned {size}: it went back"))
        }
        _ => None,
    }
}

fn show(args: &LedgerShowArgs, said: &Said) -> Result<()> {
    match args.output {
        Format::Json => print_json(said),
        Format::Text => print(&text(said)),
    }
}

fn text(said: &Said) -> String {
    let mut table = Table::new(&["LEDGER", "ENTRIES", "FROM", "LIVE", "CLOSED", "LOST"]);
    let Counts { live, closed, lost } = &said.streams;
    table.row([
        said.ledger.clone(),
        said.entries.to_string(),
        said.from.to_string(),
        live.to_string(),
        closed.to_string(),
        lost.to_string(),
    ]);
    let mut out = table.to_string();
    let lists = [
        ("Pods that must have a stream and have shown none", &said.silent),
        ("Streams without an end", &said.lost),
        ("Pods that are not covered", &said.uncovered),
        ("Records that were removed by order", &said.pruned),
        ("Alarms", &said.alarms),
    ];
    for (title, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        out.push_str(&format!("\n{title}:\n"));
        list.iter().for_each(|line| out.push_str(&format!("  {}\n", printable(line))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, list};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use testimony_core::evidence::hash::Hash;
    use testimony_core::evidence::ledger::{Book, HeadRow, Keys, PodRow, UncoveredRow, ledger_id};
    use testimony_core::evidence::merkle::Range;
    use testimony_core::evidence::note::PublicKey;
    use testimony_core::evidence::roots::NamedKey;

    const MAPS: &str = "/api/v1/namespaces/testimony-system/configmaps";

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[8; 32]).expect("a seed")
    }

    fn key() -> PublicKey {
        PublicKey(pair().public_key().as_ref().try_into().expect("32 bytes"))
    }

    fn sample() -> (Vec<Block>, Roots) {
        let sid = ledger_id("c-1", "testimony-system", 7).expect("a name");
        let mut book = Book::new(sid.clone(), Keys { ledger: key(), witness: key() });
        let stream: StreamId = format!("c-1/shop/pod-1/{:032x}-0-0", 1).parse().expect("a name");
        let pod = |n: u8| PodRow {
            uid: format!("pod-{n}"),
            namespace: "shop".to_owned(),
            name: format!("web-{n}"),
            injection_id: "i".to_owned(),
            from_ns: 5,
        };
        let bare = UncoveredRow {
            uid: "bare".to_owned(),
            namespace: "shop".to_owned(),
            name: "bare".to_owned(),
            reason: "HostNetwork".to_owned(),
            from_ns: 5,
        };
        let facts = [
            Fact::Expected(pod(1)),
            Fact::Expected(pod(2)),
            Fact::Uncovered(bare, None),
            Fact::Certified(stream.clone(), key(), 9, vec![1]),
        ];
        let root = Hash::of(&[]);
        let mut range = Range::empty(1);
        range.push(root);
        let (reason, by) = ("ticket 4711".to_owned(), "alice".to_owned());
        let order = Fact::Pruned(Pruned { sid: stream.clone(), range, reason, by });
        let later = [Fact::Lost(stream.clone(), 3, root), Fact::Fork(stream, "note".to_owned()), order];
        let mut blocks = Vec::new();
        for (facts, heads) in [(&facts[..], &[][..]), (&[], &[HeadRow { stream: 4, size: 3, root }]), (&later, &[])] {
            let sign = |message: &[u8]| pair().sign(message).as_ref().try_into().expect("64 bytes");
            let proposed = book.propose(facts, heads, 7, sign).expect("facts");
            blocks.push(proposed.block().clone());
            book.apply(proposed.committed()).expect("the next block");
        }
        let ledgers = vec![NamedKey { name: sid.to_string(), key: key() }];
        (blocks, Roots { ledgers, ..Roots::default() })
    }

    fn objects(blocks: &[Block], roots: &Roots) -> BTreeMap<&'static str, Value> {
        let object = |block: &Block| {
            json!({"metadata": {"name": format!("testimony-ledger-{}", block.number)},
                   "data": {"entries": block.entries, "note": block.note}})
        };
        // The API server sorts by name, not by number.
        let items: Vec<Value> = blocks.iter().rev().map(object).collect();
        let roots = json!({"metadata": {"name": "testimony-roots"}, "data": {"roots": roots.encode()}});
        BTreeMap::from([
            (MAPS, list(&items)),
            ("/api/v1/namespaces/testimony-system/configmaps/testimony-roots", roots),
        ])
    }

    #[tokio::test]
    async fn the_ledger_is_read_checked_and_told() {
        let (sample, roots) = sample();
        let (cluster, _) = cluster(objects(&sample, &roots));
        let read = blocks(&cluster, "testimony-system").await.expect("blocks");
        assert_eq!(read, sample);
        let roots = crate::roots::read(&cluster, "testimony-system").await.expect("roots");
        expect_test::expect![[r#"
            LEDGER                                                             ENTRIES   FROM   LIVE   CLOSED   LOST
            c-1/testimony-system/ledger/00000000000000000000000000000007-0-0   9         0      0      0        1

            Pods that must have a stream and have shown none:
              shop/web-2

            Streams without an end:
              c-1/shop/pod-1/00000000000000000000000000000001-0-0 at 3 records

            Pods that are not covered:
              shop/bare (HostNetwork)

            Records that were removed by order:
              entry 8: records 1 to 1 of c-1/shop/pod-1/00000000000000000000000000000001-0-0: ticket 4711, by alice

            Alarms:
              entry 7: stream c-1/shop/pod-1/00000000000000000000000000000001-0-0 showed two heads of one size
        "#]]
        .assert_eq(&text(&Said::of(&read, &roots).expect("whole")));
        let exported = export(&read).expect("entries");
        assert_eq!(exported.lines().count(), 3);
        assert_eq!(begin(&read).expect("entries"), None);
        let newest = begin(&read[2..]).expect("entries").expect("told");
        assert!(newest.contains("from 1970-01-01T00:00:00Z on"), "{newest}");
        expect_test::expect![[r#"
            # Trust roots of Testimony. Compare the fingerprints by another way than this file.
            # ledger key c-1/testimony-system/ledger/00000000000000000000000000000007-0-0: SHA-256 5c29b78f10a35a49a6231d08ee840a04bcc3a37a4f9d46df327dec56b8a9b7c9
            ledger c-1/testimony-system/ledger/00000000000000000000000000000007-0-0+80f83006+AROY9ixtGkV8UbpqS189vS9p/KkyFiGNyJl+QWvRfZPK
        "#]].assert_eq(&crate::roots::text(&roots).expect("roots"));
    }

    #[test]
    fn a_ledger_that_was_changed_is_refused() {
        let (good, roots) = sample();
        let with = |change: &dyn Fn(&mut Vec<Block>)| {
            let mut blocks = good.clone();
            change(&mut blocks);
            Said::of(&blocks, &roots).map(|_| ()).map_err(|error| error.to_string())
        };
        let edited = with(&|b| b[0].entries = b[0].entries.replace("web-1", "web-9"));
        assert_eq!(
            edited,
            Err("the ledger is not whole: entry 2: it does not follow the entry before it: prev is another hash"
                .to_owned())
        );
        let cut = with(&|b| b[2].entries = String::new());
        assert_eq!(
            cut,
            Err("the ledger is not whole: the ledger has 9 entries, as its own head says, and 6 are there".to_owned())
        );
        let unsigned = with(&|b| b[2].note = b[1].note.clone());
        assert_eq!(unsigned, Err("the ledger is not whole: 3 entries stand behind its last signed head".to_owned()));
        let other = Said::of(&good, &Roots::default()).expect_err("no key").to_string();
        assert!(other.starts_with("the roots hold no key of ledger c-1/"), "{other}");
    }
}
