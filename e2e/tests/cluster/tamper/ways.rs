//! The ways to tamper with an export, and what each must be found as.

use super::export::{Entry, Export, Place};
use super::forger::{Forged, Key, forged};
use crate::evidence::Evidence;
use anyhow::{Context, Result};
use serde_json::json;
use std::collections::BTreeSet;
use testimony_core::evidence::merkle::leaf;
use testimony_core::evidence::roots::Roots;

/// Changes one stream of an honest export, and knows of a second one and of a gap that was declared.
pub struct Victim {
    pub evidence: Evidence,
    pub export: Export,
    pub ledger: Export,
    /// The stream that is tampered with: it ended in order, and has a checkpoint in its midst.
    pub sid: String,
    /// A stream of another pod.
    pub other: String,
    pub gap: Place,
}

/// One way, and what must be found.
pub struct Way {
    pub name: String,
    pub evidence: Evidence,
    /// The verdict.
    pub verdict: &'static str,
    /// Where; none: in the export or the ledger as a whole.
    pub at: Option<Place>,
    /// What else must be found.
    pub also: Option<&'static str>,
}

impl Way {
    fn and(mut self, also: &'static str) -> Self {
        self.also = Some(also);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Evidence)) -> Self {
        change(&mut self.evidence);
        self
    }

    fn anywhere(mut self) -> Self {
        self.at = None;
        self
    }

    /// Without anything that would tell whose keys these are.
    fn alone(self) -> Self {
        self.with(|evidence| {
            evidence.roots.clear();
            evidence.ledger.clear();
        })
    }
}

impl Victim {
    fn at(&self, seq: u64) -> Place {
        Place { sid: self.sid.clone(), seq }
    }

    fn sealed(&self) -> Vec<Entry> {
        self.export.sealed(&self.sid)
    }

    fn size(&self) -> u64 {
        self.sealed().len() as u64
    }

    /// The exchanges of a stream.
    fn exchanges(&self, sid: &str) -> Vec<Entry> {
        self.export.sealed(sid).into_iter().filter(|entry| entry.field("typ") == "exchange").collect()
    }

    /// One of the stream's exchanges, with its place; before and behind it there are more.
    fn exchange(&self) -> Result<(Place, Entry)> {
        let exchanges = self.exchanges(&self.sid);
        let entry = exchanges.get(exchanges.len() / 2).cloned().context("an exchange")?;
        Ok((entry.place().context("a place")?, entry))
    }

    fn way(&self, name: &str, export: &Export, verdict: &'static str, at: &Place) -> Way {
        let evidence = Evidence { export: export.text(), ..self.evidence.clone() };
        Way { name: name.to_owned(), evidence, verdict, at: Some(at.clone()), also: None }
    }

    /// The same export with another ledger.
    fn ledger_way(&self, name: &str, ledger: &Export, verdict: &'static str) -> Way {
        let way = self.way(name, &self.export, verdict, &self.at(0)).anywhere();
        way.with(|evidence| evidence.ledger = ledger.text())
    }

    /// The stream sealed anew, with heads where it has them.
    fn forged(&self, records: &[Entry], keys: [&Key; 3]) -> Result<Forged> {
        let heads = self.export.heads(&self.sid);
        let sizes: BTreeSet<u64> = heads.iter().filter_map(|head| Some(head.note()?.checkpoint.size)).collect();
        forged(records, &sizes, heads.first().context("a head")?, keys)
    }

    /// The export without the stream.
    fn rest(&self) -> Export {
        self.export.without(|entry| entry.sid() == self.sid)
    }

    /// A record that claims the place behind the last one.
    fn behind(&self, entry: &Entry) -> Result<Entry> {
        let last = self.sealed().pop().context("a record")?;
        let mut behind = entry.clone();
        behind.set("seq", Some(&self.size().to_string()));
        behind.set("prev", Some(&leaf(last.body().as_bytes()).to_hex()));
        behind.set("id", Some("made-up"));
        Ok(behind)
    }

    /// Every way.
    pub fn ways(&self) -> Result<Vec<Way>> {
        let ways = [self.single()?, self.moved()?, self.removed()?, self.added()?, self.beside()?];
        let more = [self.keys()?, self.signed_anew()?, self.ledgers()?];
        Ok(ways.into_iter().chain(more).flatten().collect())
    }

    /// Each kind of record, edited and dropped.
    fn single(&self) -> Result<Vec<Way>> {
        let mut ways = Vec::new();
        let mut kinds = BTreeSet::new();
        let of_each_kind = self.sealed().into_iter().filter(|entry| kinds.insert(entry.field("typ").to_owned()));
        let gap = self.export.sealed(&self.gap.sid).into_iter().find(|entry| entry.place().as_ref() == Some(&self.gap));
        for entry in of_each_kind.chain(gap).collect::<Vec<_>>() {
            let (typ, at) = (entry.field("typ"), entry.place().context("a place")?);
            let field = if typ == "gap" { "count" } else { "t0" };
            let edited = self.export.edited(&at, |entry| entry.set(field, Some("4711")));
            ways.push(self.way(&format!("{typ}: another {field}"), &edited, "TAMPERED", &at));
            let dropped = self.export.without(|entry| entry.place().as_ref() == Some(&at));
            ways.push(self.way(&format!("{typ} dropped"), &dropped, "MISSING", &at));
        }
        Ok(ways)
    }

    /// Records in the place of others.
    fn moved(&self) -> Result<Vec<Way>> {
        let (at, entry) = self.exchange()?;
        let takes_the_place_of = |entry: &Entry, of: &Entry| {
            let mut entry = entry.clone();
            entry.resource = of.resource.clone();
            for field in ["sid", "seq", "prev"] {
                entry.set(field, Some(of.field(field)));
            }
            entry
        };
        let second = self.exchanges(&self.sid).pop().context("another exchange")?;
        let second_at = second.place().context("a place")?;
        let swapped = self.export.edited(&at, |here| *here = takes_the_place_of(&second, &entry));
        let swapped = swapped.edited(&second_at, |here| *here = takes_the_place_of(&entry, &second));
        let others = self.exchanges(&self.other).pop().context("an exchange of the other pod")?;
        let spliced = self.export.edited(&at, |here| *here = takes_the_place_of(&others, &entry));
        Ok(vec![
            self.way("two records swapped", &swapped, "TAMPERED", &at),
            self.way("the same, seen from the other one", &swapped, "TAMPERED", &second_at),
            self.way("a record of another pod spliced in", &spliced, "TAMPERED", &at),
        ])
    }

    /// More than one record taken out.
    fn removed(&self) -> Result<Vec<Way>> {
        let (at, _) = self.exchange()?;
        let some = self.export.without(|entry| entry.is_from(&at) && !entry.is_from(&self.at(at.seq + 3)));
        let cut_at = |seq: u64| {
            let behind = |entry: &Entry| entry.note().is_some_and(|note| note.checkpoint.size > seq);
            let gone = |entry: &Entry| entry.sid() == self.sid && (behind(entry) || entry.is_from(&self.at(seq)));
            self.export.without(gone)
        };
        let sealed = self.sealed();
        let checkpoint = sealed.iter().position(|entry| entry.field("typ") == "checkpoint").context("a checkpoint")?;
        let (pod, _) = self.sid.rsplit_once('/').context("a stream's name")?;
        let no_pod = self.export.without(|entry| entry.sid().starts_with(pod));
        let last = self.size() - 1;
        let middle = checkpoint as u64 + 1;
        Ok(vec![
            self.way("three records pruned without an order", &some, "MISSING", &at),
            self.way("the tail cut off with its heads", &cut_at(middle), "MISSING", &self.at(middle)),
            self.way("the end cut off with its head", &cut_at(last), "MISSING", &self.at(last)),
            self.way("a stream dropped", &self.rest(), "MISSING", &self.at(0)),
            self.way("all streams of a pod dropped", &no_pod, "MISSING", &self.at(0)),
        ])
    }

    /// Records that nobody sealed.
    fn added(&self) -> Result<Vec<Way>> {
        let (at, entry) = self.exchange()?;
        let mut copy = entry.clone();
        copy.set("actor", Some("mallory"));
        let mut hole = self.behind(&entry)?;
        let (from, to) = (at.seq.to_string(), (at.seq + 1).to_string());
        let nodes = leaf(entry.body().as_bytes()).to_hex();
        let said = [("hole_sid", self.sid.as_str()), ("hole_from", &from), ("hole_to", &to), ("nodes", &nodes)];
        for (field, value) in
            said.into_iter().chain([("typ", "hole"), ("hole_reason", "dead_letter"), ("scope", "all")])
        {
            hole.set(field, Some(value));
        }
        hole.log["eventName"] = json!("audit.hole");
        let excused = self.export.without(|entry| entry.place().as_ref() == Some(&at)).with([hole]);
        let end = self.at(self.size());
        let mut ways = vec![
            self.way("an altered copy", &self.export.with([copy]), "FOREIGN", &at),
            self.way("a record behind the end", &self.export.with([self.behind(&entry)?]), "FOREIGN", &end),
            self.way("a hole that nobody sealed, for a dropped record", &excused, "FOREIGN", &end).and("MISSING"),
        ];
        // Whole streams under a key of somebody's own, with the certificate of the stream that they are made of.
        let parts: Vec<&str> = self.sid.split('/').collect();
        let [cluster, namespace, pod, rest] = parts[..] else { anyhow::bail!("a stream's name: {}", self.sid) };
        let key = Key::new(1)?;
        let stranger = "00000000-0000-4000-8000-000000000000";
        for (name, sid) in [
            ("a pod that nobody expected", format!("{cluster}/{namespace}/{stranger}/{rest}")),
            ("a stream of another cluster", format!("{stranger}/{namespace}/{pod}/{rest}")),
        ] {
            let mut sealed = self.sealed();
            sealed.iter_mut().for_each(|entry| entry.rename(&sid));
            let made_up = self.forged(&sealed, [&key, &key, &key])?.all();
            ways.push(self.way(name, &self.export.with(made_up), "FOREIGN", &Place { sid, seq: 0 }));
        }
        Ok(ways)
    }

    /// What stands beside the body.
    fn beside(&self) -> Result<Vec<Way>> {
        let (at, _) = self.exchange()?;
        let way = |name: &str, change: &dyn Fn(&mut Entry)| {
            self.way(name, &self.export.edited(&at, change), "PROJECTION", &at)
        };
        let text = |text: &str| json!({"stringValue": text});
        Ok(vec![
            way("another time", &|entry| entry.log["timeUnixNano"] = json!("1")),
            way("another event", &|entry| entry.log["eventName"] = json!("audit.gap")),
            way("another trace", &|entry| entry.log["traceId"] = json!("0af7651916cd43dd8448eb211c80319c")),
            way("another path", &|entry| entry.set_attribute("url.path", text("/other"))),
            way("another number", &|entry| entry.set_attribute("audit.sequence.number", json!({"intValue": "1"}))),
            way("another pod in the Resource", &|entry| entry.set_resource("k8s.pod.name", "other")),
            way("another namespace in the Resource", &|entry| entry.set_resource("k8s.namespace.name", "other")),
            way("another cluster in the Resource", &|entry| entry.set_resource("k8s.cluster.uid", "other")),
        ])
    }

    /// Keys that the operator never certified.
    fn keys(&self) -> Result<Vec<Way>> {
        let (key, next) = (Key::new(1)?, Key::new(2)?);
        let public = key.public()?.to_string();
        let named = self.export.edited(&self.at(0), |entry| entry.set("key", Some(&public)));
        let forged = self.forged(&self.sealed(), [&key, &next, &next])?;
        let heads = self.export.without(|entry| entry.note().is_some() && entry.sid() == self.sid);
        let heads = heads.with(forged.heads.clone());
        let all = self.rest().with(forged.all());
        let start = self.at(0);
        Ok(vec![
            self.way("another first key", &named, "TAMPERED", &start),
            self.way("the heads signed by another key", &heads, "FOREIGN", &start),
            self.way("a stream sealed anew under another key", &all, "FORK", &start).and("TAMPERED"),
            self.way("the same without the ledger", &all, "UNANCHORED", &start)
                .with(|evidence| evidence.ledger.clear()),
        ])
    }

    /// What only who has a stream's key can do: shown on a stream that was sealed anew, without roots that would tell.
    fn signed_anew(&self) -> Result<Vec<Way>> {
        let (key, next) = (Key::new(1)?, Key::new(2)?);
        let (at, _) = self.exchange()?;
        let rest = self.rest();
        let mut sealed = self.sealed();
        let one = self.forged(&sealed, [&key, &next, &next])?;
        let mut otherwise = sealed.clone();
        let rewritten = otherwise.iter_mut().filter(|entry| entry.place().as_ref() == Some(&at));
        rewritten.for_each(|entry| entry.set("actor", Some("mallory")));
        let two = self.forged(&otherwise, [&key, &next, &next])?;
        let both = rest.with(one.clone().all()).with(two.heads);

        // An epoch that ends in the midst of it.
        let rolls = sealed.iter_mut().find(|entry| entry.field("typ") == "checkpoint").context("a checkpoint")?;
        let rolled = rolls.place().context("a place")?;
        rolls.set("next_key", Some("named when it is sealed"));
        let epochs = self.forged(&sealed, [&key, &next, &next])?;
        let is_last = |head: &Entry| head.note().is_some_and(|note| note.checkpoint.size == rolled.seq + 1);
        let skipped = rest.with(epochs.clone().all()).without(|entry| entry.sid() == self.sid && is_last(entry));
        // Records of two epochs, and all heads by the old key.
        let old = self.forged(&sealed, [&key, &next, &key])?;
        let goes_on = rest.with(old.all());
        let start = self.at(0);
        Ok(vec![
            self.way("nothing but another key", &rest.with(one.all()), "UNANCHORED", &start).anywhere().alone(),
            self.way("two histories under one key", &both, "FORK", &start).alone(),
            self.way("two epochs", &rest.with(epochs.all()), "UNANCHORED", &start).anywhere().alone(),
            self.way("an epoch without its last head", &skipped, "MISSING", &rolled).alone(),
            self.way("a key that signs on after its epoch", &goes_on, "FOREIGN", &start).alone(),
        ])
    }

    /// The ledger, and what is given with it.
    fn ledgers(&self) -> Result<Vec<Way>> {
        let says = |entry: &&Entry, typ: &str| entry.field("typ") == typ && entry.field("stream") == self.sid;
        let find = |typ: &str| self.ledger.0.iter().find(|entry| says(entry, typ)).and_then(Entry::place);
        let closed = find("ledger-closed").context("the ledger knows the stream's end")?;
        let certified = find("ledger-certified").context("the ledger knows the stream's key")?;
        let edited = self.ledger.edited(&closed, |entry| entry.set("size", Some("2")));
        let another = Key::new(1)?.public()?.to_string();
        let other_key = self.ledger.edited(&certified, |entry| entry.set("key", Some(&another)));
        let dropped = self.ledger.without(|entry| entry.place().as_ref() == Some(&certified));
        let cut = self.ledger.without(|entry| entry.is_from(&closed));
        let size = |entry: &Entry| entry.note().map_or(0, |note| note.checkpoint.size);
        let no_heads = self.ledger.without(|entry| size(entry) > closed.seq);

        let mut roots = Roots::parse(&self.evidence.roots)?;
        roots.ledgers.iter_mut().try_for_each(|named| Key::new(1)?.public().map(|key| named.key = key))?;
        let other_roots = self.ledger_way("roots of another ledger", &self.ledger, "TAMPERED");
        let [no_roots, no_ledger] =
            ["no roots", "no ledger"].map(|name| self.ledger_way(name, &self.ledger, "UNANCHORED"));
        Ok(vec![
            self.ledger_way("an entry of the ledger edited", &edited, "TAMPERED"),
            self.ledger_way("another key in the ledger", &other_key, "TAMPERED"),
            self.ledger_way("an entry of the ledger dropped", &dropped, "TAMPERED"),
            self.ledger_way("the ledger cut, its heads left", &cut, "TAMPERED"),
            self.ledger_way("the ledger's last heads dropped", &no_heads, "FOREIGN"),
            self.excused(&closed.sid)?,
            other_roots.with(|evidence| evidence.roots = roots.encode()),
            no_roots.with(|evidence| evidence.roots.clear()),
            no_ledger.with(|evidence| evidence.ledger.clear()),
        ])
    }

    /// A record dropped, and an entry behind the last one of the ledger that excuses it.
    fn excused(&self, ledger: &str) -> Result<Way> {
        let (at, _) = self.exchange()?;
        let last = self.ledger.sealed(ledger).pop().context("an entry")?;
        let mut excuse = last.clone();
        excuse.keep(&["sid", "t0", "v"]);
        let seq = (last.place().context("a place")?.seq + 1).to_string();
        let prev = leaf(last.body().as_bytes()).to_hex();
        let (from, to) = (at.seq.to_string(), (at.seq + 1).to_string());
        let said = [("typ", "ledger-abandoned"), ("stream", self.sid.as_str()), ("reason", "sink down")];
        for (field, value) in
            said.into_iter().chain([("from", from.as_str()), ("to", &to), ("seq", &seq), ("prev", &prev)])
        {
            excuse.set(field, Some(value));
        }
        let without = self.export.without(|entry| entry.place().as_ref() == Some(&at));
        let way = self.way("an entry that nobody signed, for a dropped record", &without, "FOREIGN", &at);
        let ledger = self.ledger.with([excuse]).text();
        Ok(way.anywhere().and("MISSING").with(|evidence| evidence.ledger = ledger))
    }
}
