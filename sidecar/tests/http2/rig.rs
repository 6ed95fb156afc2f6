//! A client and a server of HTTP/2 with a sidecar between them, all of it played by one test.

use crate::support::{Record, Sidecar, Sink};
use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(90);

/// What the origin is to do with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Serve,
    GoAwayGracefully,
    GoAway(Reason),
    Break,
}

/// A request as the origin got it.
pub type Taken = (Request<RecvStream>, SendResponse<Bytes>);

/// Both ends.
pub struct Rig {
    pub sink: Arc<Sink>,
    pub sender: SendRequest<Bytes>,
    pub client: JoinHandle<Result<(), h2::Error>>,
    pub taken: mpsc::UnboundedReceiver<Taken>,
    pub origin: watch::Sender<Origin>,
    pub served: JoinHandle<Result<(), h2::Error>>,
}

/// Runs one test.
pub fn play<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(test());
}

/// The result, in time.
#[track_caller]
pub fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move { timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("the deadline, at {caller}")) }
}

impl Rig {
    /// With an origin as the builder says.
    pub async fn start(builder: server::Builder, policy: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let sink = Arc::new(Sink::start());
        let sidecar = Sidecar::start(listener.local_addr().expect("address"), &sink, policy);
        let (give, taken) = mpsc::unbounded_channel();
        let (origin, orders) = watch::channel(Origin::Serve);
        let served = tokio::spawn(serve(listener, builder, give, orders));
        let socket = TcpStream::connect(sidecar.inbound).await.expect("connect");
        let (sender, connection) =
            client::Builder::new().enable_push(false).handshake(socket).await.expect("handshake");
        let client = tokio::spawn(connection);
        Self { sink, sender, client, taken, origin, served }
    }

    /// With an origin that has the library's settings.
    pub async fn usual() -> Self {
        Self::start(server::Builder::new(), "").await
    }

    /// Sends a request.
    pub async fn send(&mut self, request: Request<()>, is_end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.sender = within(self.sender.clone().ready()).await.expect("ready");
        self.sender.send_request(request, is_end).expect("a request")
    }

    /// The next request at the origin.
    pub async fn take(&mut self) -> Taken {
        within(self.taken.recv()).await.expect("a request at the origin")
    }

    /// A request that the origin got, and its answer's future.
    pub async fn exchange(&mut self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>, Taken) {
        let (response, body) = self.send(request, false).await;
        let taken = self.take().await;
        (response, body, taken)
    }

    /// Looks at the sink from another thread: this one must go on serving both ends.
    pub async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Sink) -> T + Send + 'static) -> T {
        let sink = self.sink.clone();
        tokio::task::spawn_blocking(move || look(&sink)).await.expect("joined")
    }

    /// The same of a request that is its head alone.
    pub async fn ask(&mut self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>, Taken) {
        let (response, body) = self.send(request, true).await;
        let taken = self.take().await;
        (response, body, taken)
    }

    /// Waits for so many records, in the order of their numbers.
    pub async fn records(&self, count: usize) -> Vec<Record> {
        let mut records = self.look(move |sink| sink.wait_for(count)).await;
        records.sort_by_key(|record| record["conn_seq"].parse::<u64>().expect("a number"));
        assert_eq!(records.len(), count, "EV-1: {records:#?}");
        records
    }
}

async fn serve(
    listener: TcpListener,
    builder: server::Builder,
    give: mpsc::UnboundedSender<Taken>,
    mut orders: watch::Receiver<Origin>,
) -> Result<(), h2::Error> {
    let (socket, _) = listener.accept().await.expect("accept");
    let mut connection = builder.handshake::<_, Bytes>(socket).await?;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => give.send(accepted?).unwrap_or_default(),
                None => return Ok(()),
            },
            Ok(()) = orders.changed() => match *orders.borrow_and_update() {
                Origin::Serve => {}
                Origin::GoAwayGracefully => connection.graceful_shutdown(),
                Origin::GoAway(reason) => connection.abrupt_shutdown(reason),
                Origin::Break => return Ok(()),
            },
        }
    }
}

pub fn get(path: &str) -> Request<()> {
    Request::get(format!("http://shop.example{path}")).body(()).expect("a request")
}

pub fn post(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let builder = Request::post(format!("http://shop.example{path}"));
    fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("a request")
}

pub fn answer(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let builder = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("a response")
}

pub fn trailers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().expect("name"), value.parse().expect("value"))).collect()
}

/// Reads a body to its end, giving its window back.
pub async fn read(body: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, within(body.trailers()).await?))
}

/// The fields that a sidecar may have added.
pub fn without_added(mut fields: HeaderMap) -> HeaderMap {
    fields.remove("traceparent");
    fields.remove("x-request-id");
    fields
}

/// A length-prefixed message of gRPC.
pub fn message(payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    Bytes::from([&[0], length.as_slice(), payload].concat())
}

impl Rig {
    /// The only record, after both connections are over.
    pub async fn records_of_end(&self) -> Record {
        let mut records = self.records(1).await;
        records.pop().expect("one record")
    }
}
