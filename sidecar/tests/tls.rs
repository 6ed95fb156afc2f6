//! Handshakes of a real TLS client and server, as the watcher of core sees them on the wire; and one that fails through a
//! whole sidecar.

mod support;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use support::{Sidecar, Sink};
use testimony_core::tls::{Handshake, HandshakeStatus};

const NAME: &str = "shop.test";
const VERSIONS: [(&SupportedProtocolVersion, &str); 2] = [(&TLS12, "1.2"), (&TLS13, "1.3")];

/// An authority, and a certificate of it.
struct Pki {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&ca_key).expect("a certificate").der().clone()).expect("a root");
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(vec![NAME.to_owned()]).expect("names").signed_by(&key, &issuer).expect("signed");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self { roots: Arc::new(roots), chain: vec![certificate.der().clone()], key }
    }

    fn server(&self, version: &'static SupportedProtocolVersion, provider: CryptoProvider) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A server that wants a certificate of its client.
    fn strict_server(&self, version: &'static SupportedProtocolVersion) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build();
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_client_cert_verifier(verifier.expect("a verifier"))
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate")
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// A client with a certificate.
    fn known_client(&self, version: &'static SupportedProtocolVersion) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate")
    }
}

/// What went over the wire: from the client?, bytes.
type Wire = Vec<(bool, Vec<u8>)>;

struct Pair {
    client: ClientConnection,
    server: ServerConnection,
    wire: Wire,
}

impl Pair {
    fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Self {
        let name = NAME.try_into().expect("a name");
        let client = ClientConnection::new(client.clone(), name).expect("a client");
        let server = ServerConnection::new(server.clone()).expect("a server");
        Self { client, server, wire: Wire::new() }
    }

    /// Carries bytes until none come; whether both sides accepted all of them.
    fn run(&mut self) -> bool {
        let mut good = true;
        loop {
            let mut up = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut up).expect("memory");
            }
            let mut rest = up.as_slice();
            while !rest.is_empty() && good {
                self.server.read_tls(&mut rest).expect("memory");
                good &= self.server.process_new_packets().is_ok();
            }
            let mut down = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut down).expect("memory");
            }
            let mut rest = down.as_slice();
            while !rest.is_empty() && good {
                self.client.read_tls(&mut rest).expect("memory");
                good &= self.client.process_new_packets().is_ok();
            }
            if up.is_empty() && down.is_empty() {
                return good;
            }
            self.wire.extend([(true, up), (false, down)]);
        }
    }

    /// Shakes hands, says something, and closes.
    fn whole(mut self) -> Wire {
        assert!(self.run(), "the handshake");
        assert!(!self.client.is_handshaking() && !self.server.is_handshaking());
        self.client.writer().write_all(b"ping").expect("memory");
        assert!(self.run());
        self.client.send_close_notify();
        self.server.send_close_notify();
        assert!(self.run());
        self.wire
    }
}

/// What the watcher tells of these bytes in pieces of at most so many.
fn watch(wire: &Wire, piece_bytes: usize) -> Handshake {
    let mut watch = Handshake::default();
    for (from_client, bytes) in wire {
        for piece in bytes.chunks(piece_bytes) {
            if *from_client { watch.from_client(piece) } else { watch.from_server(piece) }
        }
    }
    watch
}

fn check(wire: &Wire, version: &str, status: HandshakeStatus, alert: Option<&str>) {
    for piece_bytes in [1, 2, 3, 5, 7, 100, 1 << 20] {
        let watch = watch(wire, piece_bytes);
        assert_eq!(watch.status(), Some(status), "{version}, {piece_bytes} bytes at once");
        assert_eq!(watch.alert().map(|alert| alert.to_string()).as_deref(), alert, "{version}");
        assert_eq!(watch.server_name(), Some(NAME));
        assert!(watch.version().is_none_or(|seen| seen == version), "{:?}", watch.version());
    }
}

/// The same from a connection that was cut after any of its bytes: never completed before the client's last flight, never
/// failed.
fn check_cuts(wire: &Wire, version: &str) {
    let mut watch = Handshake::default();
    let mut client_bytes = 0;
    for (from_client, bytes) in wire {
        for byte in bytes {
            client_bytes += usize::from(*from_client);
            if *from_client {
                watch.from_client(&[*byte])
            } else {
                watch.from_server(&[*byte])
            }
            let status = watch.status().expect("TLS");
            assert_ne!(status, HandshakeStatus::Failed);
            let first_flight = wire[0].1.len();
            assert!(status == HandshakeStatus::Incomplete || client_bytes > first_flight, "{version}");
        }
    }
    assert_eq!(watch.status(), Some(HandshakeStatus::Completed));
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

#[test]
fn a_whole_handshake_and_a_resumed_one_are_completed() {
    let pki = Pki::new("one");
    for (version, name) in VERSIONS {
        let (client, server) = (Arc::new(pki.client(version)), Arc::new(pki.server(version, provider())));
        let first = Pair::new(&client, &server).whole();
        check(&first, name, HandshakeStatus::Completed, None);
        check_cuts(&first, name);
        let seen = watch(&first, 1);
        assert_eq!(seen.alpn_offered(), ["h2", "http/1.1"]);
        assert_eq!(seen.version(), Some(name));
        assert_eq!(seen.alpn_selected(), (name == "1.2").then_some("h2"), "encrypted in TLS 1.3");
        let again = Pair::new(&client, &server);
        let second = again.whole();
        let bytes = |wire: &Wire| wire.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        assert!(bytes(&second) < bytes(&first), "{name}: it was resumed, without a certificate");
        check(&second, name, HandshakeStatus::Completed, None);
        check_cuts(&second, name);
    }
}

#[test]
fn mutual_tls_is_completed() {
    let pki = Pki::new("one");
    for (version, name) in VERSIONS {
        let pair = Pair::new(&Arc::new(pki.known_client(version)), &Arc::new(pki.strict_server(version)));
        let wire = pair.whole();
        check(&wire, name, HandshakeStatus::Completed, None);
        check_cuts(&wire, name);
    }
}

#[test]
fn a_client_that_refuses_the_certificate_makes_it_fail() {
    let (pki, other) = (Pki::new("one"), Pki::new("another"));
    for ((version, name), alert) in VERSIONS.into_iter().zip(["client:unknown_ca", "client:encrypted"]) {
        let mut pair = Pair::new(&Arc::new(other.client(version)), &Arc::new(pki.server(version, provider())));
        assert!(!pair.run());
        check(&pair.wire, name, HandshakeStatus::Failed, Some(alert));
    }
}

#[test]
fn a_server_that_refuses_the_client_makes_it_fail() {
    let pki = Pki::new("one");
    let alerts = ["server:certificate_required", "server:encrypted"];
    for ((version, name), alert) in VERSIONS.into_iter().zip(alerts) {
        let mut pair = Pair::new(&Arc::new(pki.client(version)), &Arc::new(pki.strict_server(version)));
        // In TLS 1.3 the client may speak before it hears of its refusal.
        let _ = pair.client.writer().write_all(b"ping");
        assert!(!pair.run());
        check(&pair.wire, name, HandshakeStatus::Failed, Some(alert));

        let mut picky = pki.client(version);
        picky.alpn_protocols = vec![b"smtp".to_vec()];
        let mut pair = Pair::new(&Arc::new(picky), &Arc::new(pki.server(version, provider())));
        assert!(!pair.run());
        // A server of TLS 1.3 may have begun to encrypt when it finds none.
        let wanted = if name == "1.2" { "server:no_application_protocol" } else { "server:encrypted" };
        check(&pair.wire, name, HandshakeStatus::Failed, Some(wanted));
    }
    let mut pair = Pair::new(&Arc::new(pki.client(&TLS12)), &Arc::new(pki.server(&TLS13, provider())));
    assert!(!pair.run());
    check(&pair.wire, "1.2", HandshakeStatus::Failed, Some("server:protocol_version"));
}

#[test]
fn a_hello_retry_request_is_no_server_hello() {
    let pki = Pki::new("one");
    let mut one_group = provider();
    one_group.kx_groups = vec![aws_lc_rs::kx_group::SECP384R1];
    let mut pair = Pair::new(&Arc::new(pki.client(&TLS13)), &Arc::new(pki.server(&TLS13, one_group)));
    let hellos = |wire: &Wire| wire.iter().filter(|(from_client, bytes)| *from_client && bytes.contains(&22)).count();
    assert!(pair.run());
    assert!(hellos(&pair.wire) >= 2, "the server asked again");
    let wire = pair.whole();
    check(&wire, "1.3", HandshakeStatus::Completed, None);
    check_cuts(&wire, "1.3");
    // The first ClientHello, the retry and what follows up to the second ClientHello prove nothing.
    let begun = wire.iter().take(3).cloned().collect();
    check(&begun, "1.3", HandshakeStatus::Incomplete, None);
}

#[test]
fn early_data_is_no_flight() {
    let pki = Pki::new("one");
    let mut server = pki.server(&TLS13, provider());
    server.max_early_data_size = 4096;
    let mut client = pki.client(&TLS13);
    client.enable_early_data = true;
    client.resumption = Resumption::in_memory_sessions(8);
    let (client, server) = (Arc::new(client), Arc::new(server));
    Pair::new(&client, &server).whole();
    let mut pair = Pair::new(&client, &server);
    pair.client.early_data().expect("a ticket").write_all(&[7; 600]).expect("memory");
    let mut early = Vec::new();
    while pair.client.wants_write() {
        pair.client.write_tls(&mut early).expect("memory");
    }
    let mut rest = early.as_slice();
    while !rest.is_empty() {
        pair.server.read_tls(&mut rest).expect("memory");
        pair.server.process_new_packets().expect("accepted");
    }
    pair.wire.push((true, early));
    assert!(pair.run());
    assert!(pair.client.is_early_data_accepted());
    let wire = pair.whole();
    check(&wire, "1.3", HandshakeStatus::Completed, None);
    check_cuts(&wire, "1.3");
}

/// One connection through a sidecar to a server of TLS 1.3; the client's error, if any.
fn through(client: ClientConfig, server: ServerConfig, sink: &Sink) -> Option<rustls::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let sidecar = Sidecar::start(listener.local_addr().expect("address"), sink, "");
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut tls = ServerConnection::new(Arc::new(server)).expect("a server");
        let mut tls = rustls::Stream::new(&mut tls, &mut stream);
        let mut heard = [0; 4];
        if tls.read_exact(&mut heard).is_ok() {
            tls.write_all(&heard).expect("an answer");
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut stream = TcpStream::connect(sidecar.inbound).expect("connect");
    let mut tls = ClientConnection::new(Arc::new(client), NAME.try_into().expect("a name")).expect("a client");
    let mut tls = rustls::Stream::new(&mut tls, &mut stream);
    let mut answer = Vec::new();
    let result = tls.write_all(b"ping").and_then(|()| tls.read_to_end(&mut answer)).map(|_| ());
    let error = result.err().and_then(|error| error.downcast::<rustls::Error>().ok());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    serving.join().expect("the server");
    error
}

#[test]
fn a_record_says_how_the_handshake_went() {
    let (pki, other) = (Pki::new("one"), Pki::new("another"));
    let sink = Sink::start();
    assert_eq!(through(pki.client(&TLS13), pki.server(&TLS13, provider()), &sink), None);
    let record = sink.wait_for(1).remove(0);
    let shown = |record: &support::Record, names: &[&str]| -> Vec<String> {
        names.iter().map(|name| record.get(*name).cloned().unwrap_or_default()).collect()
    };
    let names =
        ["(event)", "proto", "sni", "alpn_offered", "tls_version", "tls_handshake", "outcome", "cause", "tls_alert"];
    let wanted = ["audit.tcp.close", "tls", NAME, "h2,http/1.1", "1.3", "completed", "success", "", ""];
    assert_eq!(shown(&record, &names), wanted, "{record:#?}");

    let sink = Sink::start();
    let error = through(other.client(&TLS13), pki.server(&TLS13, provider()), &sink);
    assert!(matches!(error, Some(rustls::Error::InvalidCertificate(_))), "{error:?}");
    let record = sink.wait_for(1).remove(0);
    let wanted =
        ["audit.tls.failed", "tls", NAME, "h2,http/1.1", "1.3", "failed", "failure", "tls_failed", "client:encrypted"];
    assert_eq!(shown(&record, &names), wanted, "{record:#?}");
}
