//! Connections to sinks. A name may have addresses where nothing answers, as an IPv6 one has behind a network that swallows it, and
//! its name server may take longer than a request: neither keeps what is behind the other addresses from being reached.

use super::ClientError;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a lookup is waited for. It goes on behind that, and the next try finds what it brought.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// How long one address of several may take to connect: enough for a packet that is lost and sent again.
const ADDRESS_DEADLINE: Duration = Duration::from_millis(1500);

/// How long the only one may take.
const ONLY_ADDRESS_DEADLINE: Duration = Duration::from_secs(5);

/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What is known of the addresses of one name.
#[derive(Debug, Default)]
pub(super) struct Dialler {
    /// One lookup at most that nobody has the result of.
    lookup: JoinSet<io::Result<Vec<SocketAddr>>>,
    /// What the last one found.
    found: Vec<SocketAddr>,
    /// Addresses that did not work when they were last tried, in the order of these tries: they come after the others.
    failed: Vec<SocketAddr>,
    /// What was tried last.
    tried: Option<SocketAddr>,
}

// === impl Dialler ===

impl Dialler {
    /// A connection to the first address that takes one.
    pub(super) async fn dial(&mut self, to: &str, host: &str, port: u16) -> Result<TcpStream, ClientError> {
        if self.lookup.is_empty() {
            let host = host.to_owned();
            self.lookup
                .spawn(async move { lookup_host((host, port)).await.map(|found| found.take(ADDRESSES_MAX).collect()) });
        }
        self.look(to).await?;
        self.connect(to).await
    }

    /// Takes over what the lookup brings. Where it takes too long, or fails, what was found before stays.
    async fn look(&mut self, to: &str) -> Result<(), ClientError> {
        let result = match timeout(LOOKUP_DEADLINE, self.lookup.join_next()).await {
            Ok(Some(looked)) => looked.unwrap_or_else(|error| Err(io::Error::other(error))),
            Ok(None) => Err(io::Error::other("no lookup")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the name server takes too long")),
        };
        match result {
            Ok(found) if !found.is_empty() => self.found = found,
            Ok(_) if self.found.is_empty() => {
                let source = io::Error::other("it has no address");
                return Err(ClientError::Resolve { to: to.to_owned(), source });
            }
            Err(source) if self.found.is_empty() => return Err(ClientError::Resolve { to: to.to_owned(), source }),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    async fn connect(&mut self, to: &str) -> Result<TcpStream, ClientError> {
        let mut addresses = self.found.clone();
        self.failed.retain(|address| addresses.contains(address));
        addresses.sort_by_key(|address| self.failed.iter().position(|failed| failed == address));
        let deadline = if addresses.len() > 1 { ADDRESS_DEADLINE } else { ONLY_ADDRESS_DEADLINE };
        let late = || ClientError::Timeout { to: to.to_owned(), after_ms: deadline.as_millis() };
        let mut result = Err(late());
        for address in addresses {
            // Before it is: whoever asks may have too little time for all of them, and ends this here.
            self.failed.retain(|failed| *failed != address);
            self.failed.push(address);
            self.tried = Some(address);
            result = match timeout(deadline, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return Ok(tcp),
                Ok(Err(source)) => Err(ClientError::Connect { to: to.to_owned(), source }),
                Err(_) => Err(late()),
            };
        }
        result
    }

    /// What was tried last works.
    pub(super) fn is_well(&mut self) {
        let tried = self.tried.take();
        self.failed.retain(|failed| Some(*failed) != tried);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    /// An address where nothing answers: its listener's queue is full.
    struct Silent {
        at: SocketAddr,
        _listener: Socket,
        _queue: Vec<TcpStream>,
    }

    impl Silent {
        async fn new() -> Self {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
            listener.listen(0).expect("a listener");
            let at = listener.local_addr().ok().and_then(|at| at.as_socket()).expect("an address");
            let mut queue = Vec::new();
            while let Ok(tcp) = timeout(Duration::from_millis(200), TcpStream::connect(at)).await {
                queue.push(tcp.expect("a connection"));
            }
            Self { at, _listener: listener, _queue: queue }
        }
    }

    #[tokio::test]
    async fn addresses_where_nothing_answers_do_not_hide_the_one_that_does() {
        let (first, second) = (Silent::new().await, Silent::new().await);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let works = listener.local_addr().expect("an address");
        let mut dialler = Dialler { found: vec![first.at, second.at, works], ..Dialler::default() };
        // Whoever asks has time for one of them.
        for silent in [first.at, second.at] {
            let dialled = timeout(Duration::from_millis(100), dialler.connect("x")).await;
            assert!(dialled.is_err() && dialler.failed.last() == Some(&silent), "{dialler:?}");
        }
        for _ in 0..2 {
            let begun = Instant::now();
            let tcp = dialler.connect("x").await.expect("a connection");
            assert_eq!(tcp.peer_addr().expect("an address"), works);
            dialler.is_well();
            assert!(begun.elapsed() < ADDRESS_DEADLINE, "what works is tried first");
        }
        assert_eq!(dialler.failed, [first.at, second.at]);

        let mut dialler = Dialler { found: vec![first.at, works], ..Dialler::default() };
        assert!(dialler.connect("x").await.is_ok(), "one that is not given up waits a moment for each");
    }

    #[tokio::test]
    async fn a_lookup_that_takes_longer_than_a_request_is_of_use_to_the_next_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let works = listener.local_addr().expect("an address");
        let (answer, answered) = oneshot::channel();
        let mut dialler = Dialler::default();
        dialler.lookup.spawn(async move { answered.await.map_err(io::Error::other) });
        let mut dial = async |deadline| timeout(deadline, dialler.dial("x", "name.invalid", 1)).await;
        assert!(dial(Duration::from_millis(20)).await.is_err());
        answer.send(vec![works]).expect("somebody looks");
        assert!(dial(LOOKUP_DEADLINE).await.is_ok_and(|dialled| dialled.is_ok()));
        assert!(
            dial(LOOKUP_DEADLINE).await.is_ok_and(|dialled| dialled.is_ok()),
            "a name that is gone stays where it was"
        );
    }
}
