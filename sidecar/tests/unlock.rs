//! A node that restarted: the pod's key is gone, and the operator opens what was spooled before (D5). The operator is simulated;
//! its half of HPKE is the library's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testimony_core::contract::UNWRAP_PATH;
use testimony_core::evidence::merkle;
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::unwrap::{
    HPKE_INFO, KEYS_MAX, MESSAGE_BYTES_MAX, RECOVERY_KEY_BYTES, STREAMS_MAX, UnwrapRequest, UnwrapResponse,
};
use testimony_sidecar::spool::keys::RecoveryKey;
use testimony_sidecar::spool::{
    Boot, Class, Entry, Event, Kind, LIMIT_BYTES_MIN, Limits, Place, Read, ReadError, Settings, SinkRule, Spool,
    SpoolHandle,
};
use testimony_sidecar::witness::Unlocker;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

mod control_support;
use control_support::{Ca, DEADLINE, Received, Reply, Server, caller, eventually, folder};

const POD: &str = "u-1";
const BEFORE: Boot = Boot([1; 16]);
const RECORDS: u64 = 50;

/// The operator's recovery key.
struct Keys {
    public: HpkePublicKey,
    private: HpkePrivateKey,
}

impl Keys {
    fn new() -> Self {
        let (public, private) = SUITE.generate_key_pair().expect("a key pair");
        Self { public, private }
    }

    fn answer(&self, received: &Received) -> Reply {
        assert_eq!(received.path, UNWRAP_PATH);
        let asked: UnwrapRequest = serde_json::from_slice(&received.body).expect("JSON");
        assert!(asked.keys.is_empty() || asked.streams.contains(&sid()), "the streams are named");
        // As the operator looks at it.
        assert!(asked.streams.len() <= STREAMS_MAX && asked.keys.len() <= KEYS_MAX);
        assert!(received.body.len() <= MESSAGE_BYTES_MAX, "{} bytes", received.body.len());
        let open = |wrapped: &String| {
            let wrapped = STANDARD.decode(wrapped).expect("base64");
            let (secret, sealed) = wrapped.split_at(RECOVERY_KEY_BYTES);
            let secret = EncapsulatedSecret(secret.to_vec());
            SUITE.open(&secret, HPKE_INFO, POD.as_bytes(), sealed, &self.private).ok()
        };
        let keys = asked.keys.iter().map(|key| open(key).map(|key| STANDARD.encode(key))).collect();
        let response = UnwrapResponse { recovery_key: STANDARD.encode(&self.public.0), keys };
        Reply::body(200, serde_json::to_vec(&response).expect("JSON"))
    }
}

fn sid() -> StreamId {
    sid_of(0)
}

/// Of a data thread, with a long name.
fn sid_of(thread: usize) -> StreamId {
    format!("{}/{}/{POD}/{:032x}-{thread}-0", "c".repeat(63), "n".repeat(63), 1).parse().expect("a name")
}

fn start(root: &Path, boot: Boot) -> (Spool, mpsc::Receiver<Event>) {
    std::fs::create_dir_all(root.join("memory")).expect("a folder");
    let settings = Settings {
        folder: root.join("disk"),
        key_folder: root.join("memory"),
        limit_bytes: LIMIT_BYTES_MIN,
        limits: Limits::default(),
        boot,
        recovery: Some(Arc::new(RecoveryKey::new(POD))),
        now_unix_nanos: || 1,
    };
    Spool::start(settings, &[SinkRule { name: "a".to_owned(), required: true }]).expect("a spool")
}

/// The sidecar's side of an operator.
struct Sidecar {
    _server: Server,
    _running: JoinSet<()>,
}

async fn sidecar(root: &Path, spool: &SpoolHandle, away: Arc<AtomicBool>, keys: Arc<Keys>) -> Sidecar {
    let ca = Ca::new();
    let server = Server::start(Some(&ca), move |_, received| match away.load(Ordering::SeqCst) {
        true => Reply::status(503),
        false => keys.answer(received),
    })
    .await;
    let unlocker = Unlocker::new(caller(&ca, &server), spool.clone(), Some(root));
    let mut running = JoinSet::new();
    running.spawn(unlocker.run(std::future::pending()));
    Sidecar { _server: server, _running: running }
}

/// Spools records of a stream.
fn put(handle: &SpoolHandle, sid: StreamId, records: u64) -> Place {
    let stream = handle.inbox().add_stream(sid, 0);
    let mut last = Place::default();
    for seq in 0..records {
        let payload = format!("record {seq}");
        let leaf = merkle::leaf(payload.as_bytes());
        let mut permit = handle.inbox().reserve(Class::Ordinary, 100).expect("room");
        last = permit.push(Entry::new(stream, Kind::Exchange, seq, leaf, 1), payload.as_bytes()).expect("in order");
    }
    last
}

/// A process that spooled something of so many streams, and died with its node. What it knew of the recovery key is on the disk.
async fn node_restarted(keys: &Arc<Keys>, streams: usize) -> PathBuf {
    let root = folder();
    let (spool, _events) = start(&root, BEFORE);
    let handle = spool.handle().clone();
    let _sidecar = sidecar(&root, &handle, Arc::default(), keys.clone()).await;
    eventually("the recovery key to be kept", || root.join("recovery.pub").exists()).await;
    let mut last = Place::default();
    for thread in (0..streams).rev() {
        last = put(&handle, sid_of(thread), RECORDS);
    }
    assert!(handle.inbox().wait_durable(last, DEADLINE).await);
    spool.stop();
    std::fs::remove_file(root.join("memory/spool.key")).expect("the pod's key");
    root
}

async fn found_locked(events: &mut mpsc::Receiver<Event>) {
    let event = tokio::time::timeout(DEADLINE, events.recv()).await.expect("in time");
    let Some(Event::Found(found)) = event else { panic!("{event:?}") };
    assert_eq!(found.report.streams[&sid()].size(), RECORDS, "what there is can be told without the key");
    assert!(found.report.locked_segments > 0);
}

fn read(handle: &SpoolHandle) -> Result<Read, ReadError> {
    handle.reader_at(BEFORE, Place::default()).expect("a reader").read()
}

#[tokio::test]
async fn d5_after_a_node_s_restart_the_operator_opens_the_old_segments() {
    let keys = Arc::new(Keys::new());
    let root = node_restarted(&keys, 1).await;
    let (spool, mut events) = start(&root, Boot([2; 16]));
    found_locked(&mut events).await;
    let handle = spool.handle().clone();
    assert!(matches!(read(&handle), Err(ReadError::Locked(_))));
    let away = Arc::new(AtomicBool::new(true));
    let _sidecar = sidecar(&root, &handle, away.clone(), keys).await;
    assert!(matches!(read(&handle), Err(ReadError::Locked(_))), "the operator is away: they wait");
    away.store(false, Ordering::SeqCst);
    eventually("the segments to be open", || handle.locked().is_empty()).await;
    let Ok(Read::Block(block)) = read(&handle) else { panic!("entries were left") };
    assert_eq!(block.iter().next().map(|entry| entry.payload), Some(&b"record 0"[..]));
    spool.stop();
}

#[tokio::test]
async fn d5_what_nobody_can_open_is_told_as_lost_and_waits_for_nobody() {
    let root = node_restarted(&Arc::new(Keys::new()), 1).await;
    let (spool, mut events) = start(&root, Boot([2; 16]));
    found_locked(&mut events).await;
    let handle = spool.handle().clone();
    // The operator's keys were made anew.
    let _sidecar = sidecar(&root, &handle, Arc::default(), Arc::new(Keys::new())).await;
    eventually("the segments to be given up", || handle.locked().is_empty()).await;
    let Ok(Read::Lost { leaves, .. }) = read(&handle) else { panic!("their content is lost") };
    let (stream, range) = leaves.first().expect("the leaves are known");
    assert_eq!((stream, range.begin()), (&sid(), 0));
    spool.stop();
}

#[tokio::test]
async fn d5_without_a_recovery_key_a_segment_of_before_is_lost_at_once() {
    let root = folder();
    let (spool, _events) = start(&root, BEFORE);
    let handle = spool.handle().clone();
    let last = put(&handle, sid(), 1);
    assert!(handle.inbox().wait_durable(last, DEADLINE).await);
    spool.stop();
    std::fs::remove_file(root.join("memory/spool.key")).expect("the pod's key");
    let (spool, mut events) = start(&root, Boot([2; 16]));
    let found = tokio::time::timeout(DEADLINE, events.recv()).await.expect("in time");
    assert!(matches!(found, Some(Event::Found(_))));
    let handle = spool.handle().clone();
    assert!(handle.locked().is_empty());
    assert!(matches!(read(&handle), Ok(Read::Lost { .. })));
    spool.stop();
}

/// Waits until keys of a process's segments are wrapped after the fact.
async fn rewrapped(root: &Path, boot: Boot) {
    let folder = root.join("disk").join(boot.to_string());
    let has_keys = || {
        let mut files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        // Its name appears before its content does.
        files.any(|file| {
            let length = file.metadata().map_or(0, |data| data.len());
            file.file_name().to_string_lossy().starts_with("keys-") && length > 100
        })
    };
    eventually("the keys to be wrapped", has_keys).await;
}

#[tokio::test]
async fn d5_what_was_spooled_before_the_recovery_key_was_known_is_opened_too() {
    let keys = Arc::new(Keys::new());
    for is_predecessor in [false, true] {
        let root = folder();
        let (mut spool, first) = start(&root, BEFORE);
        let mut all_events = vec![first];
        let last = put(spool.handle(), sid(), RECORDS);
        assert!(spool.handle().inbox().wait_durable(last, DEADLINE).await);
        if is_predecessor {
            // Only the container restarts: the pod's key is there, and the next process meets the operator.
            spool.stop();
            let (next, mut events) = start(&root, Boot([2; 16]));
            spool = next;
            let event = tokio::time::timeout(DEADLINE, events.recv()).await.expect("in time");
            assert!(matches!(event, Some(Event::Found(found)) if found.report.locked_segments == 0));
            all_events.push(events);
        }
        let first_contact = sidecar(&root, spool.handle(), Arc::default(), keys.clone()).await;
        rewrapped(&root, BEFORE).await;
        drop(first_contact);
        spool.stop();
        std::fs::remove_file(root.join("memory/spool.key")).expect("the pod's key");
        let (spool, mut events) = start(&root, Boot([3; 16]));
        found_locked(&mut events).await;
        let handle = spool.handle().clone();
        assert!(matches!(read(&handle), Err(ReadError::Locked(_))), "it is not given up");
        let _sidecar = sidecar(&root, &handle, Arc::default(), keys.clone()).await;
        eventually("the segments to be open", || handle.locked().is_empty()).await;
        let Ok(Read::Block(block)) = read(&handle) else { panic!("entries were left") };
        assert_eq!(block.iter().next().map(|entry| entry.payload), Some(&b"record 0"[..]));
        spool.stop();
    }
}

#[tokio::test]
async fn d5_what_was_wrapped_to_a_key_that_was_made_anew_since_is_opened_too() {
    let root = folder();
    let (spool, _events) = start(&root, BEFORE);
    let handle = spool.handle().clone();
    let (lost, anew) = (Arc::new(Keys::new()), Arc::new(Keys::new()));
    let is_anew = Arc::new(AtomicBool::new(false));
    let ca = Ca::new();
    let (turn, ours) = (is_anew.clone(), anew.clone());
    let server = Server::start(Some(&ca), move |_, received| {
        if turn.load(Ordering::SeqCst) { ours.answer(received) } else { lost.answer(received) }
    })
    .await;
    let unlocker = Unlocker::new(caller(&ca, &server), handle.clone(), Some(&root));
    let mut running = JoinSet::new();
    running.spawn(unlocker.asking_each(Duration::from_millis(50)).run(std::future::pending()));
    eventually("the recovery key to be kept", || root.join("recovery.pub").exists()).await;
    let last = put(&handle, sid(), RECORDS);
    assert!(handle.inbox().wait_durable(last, DEADLINE).await);
    is_anew.store(true, Ordering::SeqCst);
    rewrapped(&root, BEFORE).await;
    drop(running);
    spool.stop();
    std::fs::remove_file(root.join("memory/spool.key")).expect("the pod's key");

    let (spool, mut events) = start(&root, Boot([2; 16]));
    found_locked(&mut events).await;
    let handle = spool.handle().clone();
    let _sidecar = sidecar(&root, &handle, Arc::default(), anew).await;
    eventually("the segments to be open", || handle.locked().is_empty()).await;
    let Ok(Read::Block(block)) = read(&handle) else { panic!("entries were left") };
    assert_eq!(block.iter().next().map(|entry| entry.payload), Some(&b"record 0"[..]));
    spool.stop();
}

#[tokio::test]
async fn d5_a_segment_with_as_many_streams_as_it_may_hold_is_opened() {
    let keys = Arc::new(Keys::new());
    let root = node_restarted(&keys, STREAMS_MAX).await;
    let (spool, mut events) = start(&root, Boot([2; 16]));
    found_locked(&mut events).await;
    let handle = spool.handle().clone();
    let fullest = handle.locked().iter().map(|segment| segment.streams.len()).max();
    assert_eq!(fullest, Some(testimony_sidecar::spool::STREAMS_MAX), "a segment is full of streams");
    let _sidecar = sidecar(&root, &handle, Arc::default(), keys).await;
    eventually("the segments to be open", || handle.locked().is_empty()).await;
    assert!(matches!(read(&handle), Ok(Read::Block(_))), "nothing is lost");
    spool.stop();
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Lines of this level about the operator's answers.
    fn lines(&self, level: &str) -> usize {
        let text = String::from_utf8(self.0.lock().expect("lock").clone()).expect("text");
        let is_about = |line: &&str| line.contains(level) && line.contains("keys of the spool");
        text.lines().filter(is_about).count()
    }
}

#[tokio::test]
async fn an_operator_that_is_away_is_told_once_and_so_is_its_return() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let root = folder();
    let (spool, _events) = start(&root, BEFORE);
    let away = Arc::new(AtomicBool::new(true));
    let _sidecar = sidecar(&root, spool.handle(), away.clone(), Arc::new(Keys::new())).await;
    eventually("the operator to be asked again and again", || log.lines("DEBUG") >= 2).await;
    assert_eq!((log.lines("WARN"), log.lines("INFO")), (1, 0));
    away.store(false, Ordering::SeqCst);
    eventually("the recovery key to be kept", || root.join("recovery.pub").exists()).await;
    eventually("its return to be told", || log.lines("INFO") == 1).await;
    assert_eq!(log.lines("WARN"), 1);
    spool.stop();
}
