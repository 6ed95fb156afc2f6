//! A sink: an OTLP receiver over HTTP that fails as it is told to, and keeps what it took.

use super::client::NAME_BYTES;
use super::ports::free_port;
use super::process::DEADLINE;
use super::wire::{Chance, Message};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// What the receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Takes it.
    None,
    /// 429, try again in a second.
    TooMany,
    /// 503.
    Unavailable,
    /// 500.
    Broken,
    /// 200 with a page that is no answer of OTLP; nothing was taken.
    LoginPage,
    /// Takes every second record of several, and says how many it did not.
    Partial,
    /// 400 for more than one record at a time.
    Picky,
    /// 422 for everything: no record is good enough.
    Refusing,
    /// 400 for everything, with records or without: it is not spoken to as it wants.
    Misfit,
    /// 401.
    Unauthorized,
    /// Resets the connection, with nothing taken.
    Reset,
    /// Never answers, with nothing taken.
    Hang,
    /// Takes it, and resets the connection without an answer.
    TakenThenReset,
    /// Takes it, and never answers.
    TakenThenHang,
}

impl Fault {
    /// Those that pass within a second or two, and after which nothing may be lost.
    pub const PASSING: [Self; 10] = [
        Self::TooMany,
        Self::Unavailable,
        Self::Broken,
        Self::LoginPage,
        Self::Partial,
        Self::Picky,
        Self::Reset,
        Self::Hang,
        Self::TakenThenReset,
        Self::TakenThenHang,
    ];
}

/// When the receiver fails.
#[derive(Clone, Debug)]
pub enum Weather {
    /// The same for each request.
    Always(Fault),
    /// For each request by chance: one of these, or, in so many of 100 cases, none.
    Mixed(Vec<Fault>, u64, Chance),
}

/// A receiver on a port of its own, for as long as the test runs.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    inner: Arc<Mutex<Inner>>,
    listens: Arc<AtomicBool>,
}

struct Inner {
    weather: Weather,
    taken: Vec<ExportLogsServiceRequest>,
    seen: BTreeMap<Fault, u64>,
    exchanges: u64,
    /// Instead of all that was taken: names of exchanges, and what gaps say.
    names: Option<(BTreeSet<String>, BTreeMap<String, u64>)>,
}

impl Receiver {
    /// Takes everything, until it is told otherwise.
    pub fn start() -> Self {
        let address = free_port();
        let weather = Weather::Always(Fault::None);
        let inner = Inner { weather, taken: Vec::new(), seen: BTreeMap::new(), exchanges: 0, names: None };
        let inner = Arc::new(Mutex::new(inner));
        let receiver = Self { address, inner, listens: Arc::default() };
        receiver.up();
        receiver
    }

    /// Listens.
    pub fn up(&self) {
        let listener = TcpListener::bind(self.address).expect("bind");
        listener.set_nonblocking(true).expect("a mode");
        self.listens.store(true, Ordering::SeqCst);
        let (shared, listens) = (self.inner.clone(), self.listens.clone());
        thread::spawn(move || {
            while listens.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                };
                stream.set_nonblocking(false).expect("a mode");
                let (shared, listens) = (shared.clone(), listens.clone());
                thread::spawn(move || while serve(&stream, &shared, &listens).is_some() {});
            }
        });
    }

    /// Nobody listens any more, and connections that are open are reset with the next request.
    pub fn down(&self) {
        self.listens.store(false, Ordering::SeqCst);
        let end = Instant::now() + DEADLINE;
        while TcpStream::connect(self.address).is_ok() {
            assert!(Instant::now() < end, "it still listens");
            thread::sleep(ACCEPT_PAUSE);
        }
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.inner.lock().expect("lock").weather = weather;
    }

    /// From now on nothing is kept but the names of exchanges: for more records than memory has room for.
    pub fn keep_names_only(&self) {
        self.inner.lock().expect("lock").names = Some(Default::default());
    }

    /// How many exchanges came, each counted once.
    pub fn names(&self) -> u64 {
        self.inner.lock().expect("lock").names.as_ref().map_or(0, |(names, _)| names.len() as u64)
    }

    /// Whether this exchange came.
    pub fn has_name(&self, name: &str) -> bool {
        self.inner.lock().expect("lock").names.as_ref().is_some_and(|(names, _)| names.contains(name))
    }

    /// How many exchanges gaps count, each gap counted once.
    pub fn in_gaps(&self) -> u64 {
        self.inner.lock().expect("lock").names.as_ref().map_or(0, |(_, gaps)| gaps.values().sum())
    }

    /// How often each fault has struck.
    pub fn seen(&self) -> BTreeMap<Fault, u64> {
        self.inner.lock().expect("lock").seen.clone()
    }

    /// All that was taken, in order.
    pub fn taken(&self) -> Vec<ExportLogsServiceRequest> {
        self.inner.lock().expect("lock").taken.clone()
    }

    /// How many requests were taken.
    pub fn requests(&self) -> usize {
        self.inner.lock().expect("lock").taken.len()
    }

    /// How many exchange records were taken, copies counted.
    pub fn exchanges(&self) -> u64 {
        self.inner.lock().expect("lock").exchanges
    }
}

fn serve(stream: &TcpStream, shared: &Mutex<Inner>, listens: &AtomicBool) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let request = Message::read(&mut reader)?;
    let mut plain = Vec::new();
    match request.encoding.as_str() {
        "gzip" => drop(GzDecoder::new(request.body.as_slice()).read_to_end(&mut plain).expect("gzip")),
        _ => plain = request.body,
    }
    let request = ExportLogsServiceRequest::decode(plain.as_slice()).expect("OTLP");
    if !listens.load(Ordering::SeqCst) {
        return reset(stream);
    }
    let fault = {
        let mut inner = shared.lock().expect("lock");
        let fault = inner.weather.next();
        *inner.seen.entry(fault).or_default() += 1;
        fault
    };
    match fault {
        Fault::None => answer(stream, shared, request, 0),
        Fault::TooMany => say(stream, "429 Too Many Requests\r\nretry-after: 1", b"slow down"),
        Fault::Unavailable => say(stream, "503 Service Unavailable", b"down"),
        Fault::Broken => say(stream, "500 Internal Server Error", b""),
        Fault::LoginPage => say(stream, "200 OK", b"<html>log in</html>"),
        Fault::Refusing => say(stream, "422 Unprocessable Entity", b"no"),
        Fault::Misfit => say(stream, "400 Bad Request", b"no"),
        Fault::Picky if records(&request) > 1 => say(stream, "400 Bad Request", b"one at a time"),
        Fault::Picky => answer(stream, shared, request, 0),
        Fault::Unauthorized => say(stream, "401 Unauthorized", b""),
        Fault::Partial => {
            let (half, rejected) = half(request);
            answer(stream, shared, half, rejected)
        }
        Fault::Reset => reset(stream),
        Fault::Hang => hang(stream),
        Fault::TakenThenReset => {
            keep(shared, request);
            reset(stream)
        }
        Fault::TakenThenHang => {
            keep(shared, request);
            hang(stream)
        }
    }
}

fn records(request: &ExportLogsServiceRequest) -> usize {
    let scopes = request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
    scopes.map(|scope| scope.log_records.len()).sum()
}

/// Without every second record, where there are several.
fn half(mut request: ExportLogsServiceRequest) -> (ExportLogsServiceRequest, i64) {
    if records(&request) < 2 {
        return (request, 0);
    }
    let (mut at, mut rejected) = (0_u64, 0);
    for scope in request.resource_logs.iter_mut().flat_map(|logs| &mut logs.scope_logs) {
        scope.log_records.retain(|_| {
            at += 1;
            rejected += i64::from(at.is_multiple_of(2));
            at % 2 == 1
        });
    }
    (request, rejected)
}

fn keep(shared: &Mutex<Inner>, request: ExportLogsServiceRequest) {
    let scopes = request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
    let bodies = scopes.flat_map(|scope| &scope.log_records).filter_map(|record| record.body.as_ref()?.value.as_ref());
    let bodies = bodies.filter_map(|value| match value {
        Value::StringValue(body) => Some(body.as_str()),
        _ => None,
    });
    let mut inner = shared.lock().expect("lock");
    for body in bodies {
        let is_exchange = body.contains(r#""typ":"exchange""#);
        inner.exchanges += u64::from(is_exchange);
        if let Some((names, gaps)) = &mut inner.names {
            match (is_exchange, after(body, r#""path":""#), after(body, r#""count":""#)) {
                (true, Some(path), _) => drop(names.insert(path.chars().take(NAME_BYTES).collect())),
                (false, _, Some(count)) if body.contains(r#""typ":"gap""#) => {
                    let count = count.split('"').next().and_then(|digits| digits.parse().ok()).expect("a number");
                    gaps.insert(body.to_owned(), count);
                }
                _ => {}
            }
        }
    }
    if inner.names.is_none() {
        inner.taken.push(request);
    }
}

/// What of a record's body follows a key.
fn after<'a>(body: &'a str, key: &str) -> Option<&'a str> {
    body.split_once(key).map(|(_, rest)| rest)
}

fn answer(stream: &TcpStream, shared: &Mutex<Inner>, request: ExportLogsServiceRequest, rejected: i64) -> Option<()> {
    keep(shared, request);
    let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: "some".to_owned() };
    let response = ExportLogsServiceResponse { partial_success: (rejected > 0).then_some(partial) };
    say(stream, "200 OK", &response.encode_to_vec())
}

fn say(mut stream: &TcpStream, head: &str, body: &[u8]) -> Option<()> {
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).ok()
}

/// Until the other side gives up.
fn hang(mut stream: &TcpStream) -> Option<()> {
    while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    None
}

fn reset(stream: &TcpStream) -> Option<()> {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: a valid descriptor, and a pointer to a struct of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "SO_LINGER");
    None
}

impl Weather {
    fn next(&mut self) -> Fault {
        match self {
            Self::Always(fault) => *fault,
            Self::Mixed(faults, fair, chance) => match chance.between(0, 100) {
                percent if percent < *fair => Fault::None,
                _ => faults[usize::try_from(chance.between(0, faults.len() as u64)).expect("small")],
            },
        }
    }
}
