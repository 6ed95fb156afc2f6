//! A cluster with a keeper, and sidecars with one stream each, for tests.

use super::desk::Reply;
use super::http::Ask;
use super::*;
use crate::api::AuditPolicy;
use crate::certs::Authority;
use crate::index::Indexed;
use crate::inject::ExcludedNamespaces;
use crate::metrics::{Metrics, ResultLabels};
use crate::policy_server::Identity;
use crate::serve::Shutdown;
use crate::state::State;
use crate::testing::FakeApi;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testimony_core::evidence::hash::Hash;
use testimony_core::evidence::ledger::Block;
use testimony_core::evidence::ledger::read::{Reader, Summary};
use testimony_core::evidence::merkle::{leaf, root_of};
use testimony_core::evidence::note::{Checkpoint, PublicKey, SIGNATURE_BYTES, Signature, SignedNote};
use testimony_core::evidence::roots::Roots;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::{Client as Owner, Outcome, Request};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(super) const SPACE: &str = "testimony-system";
pub(super) const MAPS: &str = "/api/v1/namespaces/testimony-system/configmaps";
pub(super) const SECRET: &str = "/api/v1/namespaces/testimony-system/secrets/testimony-witness";

pub(super) fn excluded() -> ExcludedNamespaces {
    ExcludedNamespaces { own: SPACE.to_owned(), further: Vec::new() }
}

pub(super) fn identity(pod: &str) -> Identity {
    Identity { namespace: "shop".to_owned(), pod_name: pod.to_owned(), pod_uid: pod.to_owned() }
}

pub(super) fn put<K: Indexed + serde::de::DeserializeOwned>(state: &State, object: Value) {
    let object: K = serde_json::from_value(object).expect("object");
    state.change(|index| K::apply(index, object));
}

/// All pods of the namespace `shop`.
pub(super) fn policy() -> Value {
    json!({"apiVersion": "audit.testimony.dev/v1alpha1", "kind": "AuditPolicy", "spec": {},
           "metadata": {"name": "all", "namespace": "shop", "uid": "p"}})
}

/// What admission writes into the pod of this name.
pub(super) fn injection(name: &str) -> String {
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex:0>32}")
}

/// A pod that runs.
pub(super) fn pod(state: &State, name: &str, injected: bool) {
    pod_of(state, name, injected, json!({"phase": "Running"}));
}

/// A pod of which the kubelet says this.
pub(super) fn pod_of(state: &State, name: &str, injected: bool, status: Value) {
    let sidecar = json!([{"name": "testimony-sidecar", "image": "t"}]);
    let (annotations, init) = match injected {
        true => (json!({"testimony.dev/injection-id": injection(name)}), sidecar),
        false => (json!({}), json!([])),
    };
    put::<Pod>(
        state,
        json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "annotations": annotations},
               "spec": {"containers": [], "initContainers": init}, "status": status}),
    );
}

/// A cluster with an operator's keeper.
pub(super) struct Bench {
    pub(super) api: FakeApi,
    pub(super) state: Arc<State>,
    pub(super) metrics: Metrics,
    pub(super) authority: Arc<Authority>,
    pub(super) door: WitnessDoor,
    pub(super) stop: watch::Sender<bool>,
    pub(super) keeper: JoinHandle<()>,
    outside: Option<JoinHandle<()>>,
}

impl Bench {
    pub(super) fn new(api: FakeApi) -> Self {
        Self::first(api, None)
    }

    /// With a witness outside.
    pub(super) fn with_outside(api: FakeApi, config: OutsideConfig) -> Self {
        Self::first(api, Some(config))
    }

    fn first(api: FakeApi, outside: Option<OutsideConfig>) -> Self {
        let authority =
            Authority::create(OffsetDateTime::now_utc(), Duration::from_secs(86_400 * 365)).expect("authority");
        let state = Arc::new(State::new("cluster.local"));
        put::<Namespace>(&state, json!({"metadata": {"name": "kube-system", "uid": "c-1"}}));
        put::<AuditPolicy>(&state, policy());
        let (metrics, _) = Metrics::new();
        Self::keeping(api, state, metrics, Arc::new(authority), outside)
    }

    /// Ends, and starts again with a witness outside.
    pub(super) async fn restarted(self, config: OutsideConfig) -> Self {
        let (api, state) = (self.api.clone(), self.state.clone());
        let (metrics, authority) = (self.metrics.clone(), self.authority.clone());
        self.end().await;
        Self::keeping(api, state, metrics, authority, Some(config))
    }

    pub(super) fn on(api: FakeApi, state: Arc<State>, metrics: Metrics, authority: Arc<Authority>) -> Self {
        Self::keeping(api, state, metrics, authority, None)
    }

    fn keeping(
        api: FakeApi,
        state: Arc<State>,
        metrics: Metrics,
        authority: Arc<Authority>,
        outside: Option<OutsideConfig>,
    ) -> Self {
        let (stop, shutdown) = Shutdown::new();
        let (door, inbox) = WitnessDoor::new();
        let config =
            KeeperConfig { namespace: SPACE.to_owned(), secret: "testimony-witness".to_owned(), excluded: excluded() };
        let bundle: Arc<str> = authority.bundle(OffsetDateTime::now_utc()).into();
        let certificates =
            (watch::Sender::new(Some(authority.clone())).subscribe(), watch::Sender::new(Some(bundle)).subscribe());
        let shared = (state.clone(), metrics.clone());
        let keeper = Keeper::new(config, api.client(), shared, certificates, (door.clone(), inbox));
        let outside = outside.map(|config| {
            let (store, progress) = keeper.blocks();
            let (metrics, unread, notes) = (metrics.clone(), keeper.unread(), keeper.notes());
            let shower = Shower { config, store, metrics, progress, unread, notes };
            tokio::spawn(shower.run(shutdown.clone()))
        });
        let keeper = tokio::spawn(keeper.run(shutdown));
        Self { api, state, metrics, authority, door, stop, keeper, outside }
    }

    /// Another replica of the same cluster.
    pub(super) fn again(&self) -> Self {
        Self::on(self.api.clone(), self.state.clone(), self.metrics.clone(), self.authority.clone())
    }

    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        for task in [Some(self.keeper), self.outside].into_iter().flatten() {
            tokio::time::timeout(Duration::from_secs(60), task).await.expect("in time").expect("a clean end");
        }
    }

    pub(super) fn outside_counted(&self, result: &'static str) -> u64 {
        self.metrics.ledger_outside.get_or_create(&ResultLabels { result }).get()
    }

    pub(super) fn whole_blocks(&self) -> Vec<Block> {
        let blocks = self.blocks().into_iter().enumerate();
        blocks.map(|(number, (entries, note))| Block { number: number as u64, entries, note }).collect()
    }

    pub(super) fn blocks(&self) -> Vec<(String, String)> {
        let number = |path: &String| path.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
        let mut paths = self.api.paths(&format!("{MAPS}/testimony-ledger-"));
        // Other things of the ledger have a word there.
        paths.retain(|path| number(path).is_some());
        paths.sort_by_key(number);
        let text = |object: &Value, key: &str| object["data"][key].as_str().unwrap_or_default().to_owned();
        let objects = paths.iter().filter_map(|path| self.api.get(path));
        objects.map(|object| (text(&object, "entries"), text(&object, "note"))).collect()
    }

    pub(super) fn has_roots(&self) -> bool {
        self.api.get(&format!("{MAPS}/testimony-roots")).is_some()
    }

    pub(super) fn roots(&self) -> Roots {
        let object = self.api.get(&format!("{MAPS}/testimony-roots")).expect("roots");
        Roots::parse(object["data"]["roots"].as_str().expect("text")).expect("roots")
    }

    /// What the ledger says to who has the roots.
    pub(super) fn read(&self) -> Summary {
        let mut reader = Reader::new(self.roots().ledgers[0].key);
        for (entries, note) in self.blocks() {
            entries.lines().for_each(|line| reader.entry(line.as_bytes()).expect("it follows"));
            reader.head(&note).expect("its head");
        }
        reader.finish()
    }

    pub(super) fn blocks_counted(&self, result: &'static str) -> u64 {
        self.metrics.ledger_blocks.get_or_create(&ResultLabels { result }).get()
    }

    pub(super) async fn ask(&self, pod: &str, ask: Ask) -> Reply {
        self.door.ask(identity(pod), ask).await
    }

    /// Until the condition holds; time is simulated.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not in time: {what}");
    }
}

/// A sidecar with one stream.
pub(super) struct Sidecar {
    pub(super) pod: &'static str,
    pub(super) sid: StreamId,
    pub(super) client: Owner,
    pub(super) leaves: Vec<Hash>,
    pub(super) key: u8,
}

pub(super) fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

pub(super) fn public(seed: u8) -> PublicKey {
    PublicKey(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

pub(super) fn sign(seed: u8, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
    pair(seed).sign(message).as_ref().try_into().expect("64 bytes")
}

impl Sidecar {
    pub(super) fn new(pod: &'static str) -> Self {
        let sid = format!("c-1/shop/{pod}/0123456789abcdef0123456789abcdef-0-0").parse().expect("a name");
        Self { pod, sid, client: Owner::new(public(1)), leaves: Vec::new(), key: 1 }
    }

    pub(super) fn certify(&self) -> Ask {
        Ask::Certify { injection_id: injection(self.pod), sid: self.sid.clone(), key: public(1) }
    }

    pub(super) fn note(&self) -> SignedNote {
        let checkpoint =
            Checkpoint { origin: self.sid.to_string(), size: self.leaves.len() as u64, root: root_of(&self.leaves) };
        let signature = sign(self.key, checkpoint.text().as_bytes());
        SignedNote { signatures: vec![Signature::log(self.sid.as_str(), &public(self.key), &signature)], checkpoint }
    }

    pub(super) fn seal(&mut self, count: usize) {
        for _ in 0..count {
            let leaf = leaf(&self.leaves.len().to_be_bytes());
            self.client.push(leaf);
            self.leaves.push(leaf);
        }
        assert!(self.client.head(self.note(), None));
    }

    /// Ends the epoch, or the stream.
    pub(super) fn end(&mut self, typ: &str) {
        let (seq, next) = (self.leaves.len(), (typ == "checkpoint").then(|| public(self.key + 1)));
        let key = next.map(|key| format!("\"next_key\":\"{key}\",")).unwrap_or_default();
        let body = format!("{{{key}\"seq\":\"{seq}\",\"sid\":\"{}\",\"typ\":\"{typ}\"}}", self.sid);
        self.client.push_record(body.as_bytes(), next.is_none());
        self.leaves.push(leaf(body.as_bytes()));
        assert!(self.client.head(self.note(), next));
        self.key += u8::from(next.is_some());
    }

    /// Shows what waits, and what came of the last request.
    pub(super) async fn show(&mut self, bench: &Bench) -> Option<Outcome> {
        let mut last = None;
        while let Some(request) = self.client.request() {
            let request = Request::parse(request.as_bytes()).expect("a request");
            let outcome = match bench.ask(self.pod, Ask::AddCheckpoint(Box::new(request))).await {
                Reply::Cosigned(line) => self.client.answered(200, &line),
                Reply::Refused(refusal) => self.client.answered(refusal.status(), &refusal.body()),
                Reply::Denied(status, why) => self.client.answered(status, &why),
                Reply::Later(_) => self.client.answered(503, ""),
                other => panic!("nobody asked for {other:?}"),
            };
            let ends = !matches!(outcome, Outcome::Cosigned(_) | Outcome::Again | Outcome::WentBack);
            last = Some(outcome);
            if ends {
                break;
            }
        }
        last
    }

    /// The same each second, until a head is cosigned, at most so often as a keeper that reads anew needs; its size.
    pub(super) async fn show_until_cosigned(&mut self, bench: &Bench) -> Option<u64> {
        for _ in 0..20 {
            let outcome = self.show(bench).await;
            let size = cosigned(bench, outcome.as_ref());
            if size.is_some() {
                return size;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        None
    }
}

pub(super) fn cosigned(bench: &Bench, outcome: Option<&Outcome>) -> Option<u64> {
    let witness = &bench.roots().witnesses[0];
    match outcome {
        Some(Outcome::Cosigned(note)) => note.cosigned_at(&witness.name, &witness.key).map(|_| note.checkpoint.size),
        _ => None,
    }
}
