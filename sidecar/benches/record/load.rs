//! What is recorded: exchanges on connections, of three sizes.

use std::sync::Arc;
use testimony_core::capture::ConnFacts;
use testimony_core::http1::{ConnSeq, End, HeadEdit, Limits, Observer, RequestHead, ResponseHead, Session};
use testimony_core::policy::{
    Correlation, DOCUMENT_VERSION, DeliveryMode, Direction, DocumentPolicy, FailureMode, PolicyDocument,
};

/// Requests on one connection.
pub const REQUESTS_PER_CONNECTION: u64 = 100;

const RESPONSE: &[u8] = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// How much a request's head brings into its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As little as there can be: what every record holds.
    Least,
    /// What a client of an API sends; a body of a little more than 1 KiB.
    Usual,
    /// A browser's head with a long path and query; a body of about 2.7 KiB: values of the query are masked.
    Long,
}

impl Size {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Least, Self::Usual, Self::Long];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Least => "least",
            Self::Usual => "usual",
            Self::Long => "long",
        }
    }
}

/// One connection.
pub struct Client {
    session: Session,
    size: Size,
    request: Vec<u8>,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Client {
    /// A new one.
    pub fn new(size: Size) -> Self {
        let (request, up, down) = Default::default();
        Self { session: Session::new(Limits::default()), size, request, up, down }
    }

    /// A request and its answer, through the proxy's machine.
    pub fn exchange(&mut self, number: u64, observer: &mut impl Observer) {
        self.request.clear();
        head(self.size, number, &mut self.request);
        self.up.clear();
        self.down.clear();
        let asked = self.session.client_bytes(&self.request, observer, &mut self.up, &mut self.down);
        assert_eq!(asked.consumed, self.request.len());
        let answered = self.session.upstream_bytes(RESPONSE, observer, &mut self.down, &mut self.up);
        assert_eq!(answered.consumed, RESPONSE.len());
    }
}

fn head(size: Size, number: u64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let trace = number.wrapping_mul(0x94d0_49bb_1331_11eb) | 1;
    let span = number as u32 | 1;
    let written = match size {
        Size::Least => write!(out, "GET /{number:08} HTTP/1.1\r\nhost: a\r\n\r\n"),
        Size::Usual => write!(
            out,
            "GET /v1/orders/{number:08} HTTP/1.1\r\nhost: orders.shop\r\nuser-agent: python-requests/2.32.3\r\n\
             accept: application/json\r\ntraceparent: 00-4bf92f3577b34da6{trace:016x}-00f067aa{span:08x}-01\r\n\r\n"
        ),
        Size::Long => write!(
            out,
            "GET /v2/tenants/{span:08x}/catalogues/{trace:016x}{LONG_PATH}{number:08}?{LONG_QUERY}&page={number} HTTP/1.1\r\n\
             host: storefront.shop.svc.cluster.local:8443\r\nuser-agent: {LONG_AGENT}\r\naccept: {LONG_ACCEPT}\r\n\
             accept-language: {LONG_LANGUAGE}\r\naccept-encoding: gzip, deflate, br, zstd\r\ncache-control: max-age=0\r\n\
             if-none-match: W/\"{trace:016x}\"\r\nvia: {LONG_VIA}\r\n\
             traceparent: 00-4bf92f3577b34da6{trace:016x}-00f067aa{span:08x}-01\r\n\r\n"
        ),
    };
    written.expect("memory");
}

const LONG_PATH: &str = "/collections/spring-and-summer/garments/outdoor-jackets-and-coats/waterproof-breathable-three-layer/\
    variants/colour-midnight-blue/size-extra-large/regional-prices/northern-europe/with-value-added-tax/including-shipping/\
    reviews/verified-purchases-only/sorted-by-helpfulness/descending/media/photographs/high-resolution/entries/";
const LONG_QUERY: &str = "fields=id,name,price,currency,stock&expand=vendor&locale=en_GB&currency=EUR&sort=price&order=asc&\
    filter%5Bvendor%5D=alpine&filter%5Bmaterial%5D=wool&include=images&include=reviews&include=related&facets=true&\
    highlight=true&experiment=checkout-flow-b&campaign=newsletter&session_window=1800&per_page=100";
const LONG_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 \
    Safari/537.36 Edg/141.0.0.0 StorefrontShell/7.14.2 (build 20261104; channel stable; locale en-GB; density 2.0)";
const LONG_ACCEPT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
    application/signed-exchange;v=b3;q=0.7,application/json;q=0.6,application/problem+json;q=0.5,text/plain;q=0.4";
const LONG_LANGUAGE: &str =
    "en-GB,en;q=0.9,de-DE;q=0.8,de;q=0.7,fr-FR;q=0.6,fr;q=0.5,nl-NL;q=0.4,nl;q=0.3,sv-SE;q=0.2,sv;q=0.1";
const LONG_VIA: &str = "1.1 edge-17.fra.example (cache/4.2), 1.1 shield-3.ams.example (cache/4.2), 2 gateway.shop (router/1.9), \
    1.1 rate-limiter.shop (limits/0.8), 1.1 canary-splitter.shop (split/2.1), 1.1 storefront-mesh.shop (mesh/3.3)";

/// Looks at nothing.
pub struct Silent;

impl Observer for Silent {
    fn request_head(&mut self, _: ConnSeq, _: &RequestHead<'_>, _: &mut HeadEdit) {}
    fn request_unparsed(&mut self, _: ConnSeq, _: &[u8]) {}
    fn request_body(&mut self, _: ConnSeq, _: u64) {}
    fn request_end(&mut self, _: ConnSeq) {}
    fn response_head(&mut self, _: ConnSeq, _: &ResponseHead<'_>, _: usize) {}
    fn answered(&mut self, _: ConnSeq, _: u16, _: usize) {}
    fn response_body(&mut self, _: ConnSeq, _: u64) {}
    fn tunnel(&mut self, _: ConnSeq, _: u64, _: u64) {}
    fn exchange_end(&mut self, _: ConnSeq, _: End) {}
}

/// Who is connected to whom.
pub fn connection() -> ConnFacts {
    let address = |text: &str| text.parse().expect("an address");
    ConnFacts {
        direction: Direction::Inbound,
        conn_id: 0x0011_2233_4455_66aa,
        peer: address("10.244.1.17:43112"),
        local: address("10.244.2.9:8080"),
        upstream_local: Some(address("10.244.2.9:51022")),
        pod_actor: Some(Arc::from("system:serviceaccount:shop:orders")),
        from_node: false,
        peer_name: None,
    }
}

/// A policy that records everything.
pub fn document() -> PolicyDocument {
    let policy = DocumentPolicy {
        name: "shop/all".to_owned(),
        directions: vec![Direction::Inbound, Direction::Outbound],
        exclude_ports: Vec::new(),
        rules: Vec::new(),
        delivery: DeliveryMode::Async,
        failure_mode: FailureMode::Open,
    };
    PolicyDocument {
        version: DOCUMENT_VERSION,
        revision: "0011223344556677".to_owned(),
        policies: vec![policy],
        client_address: Default::default(),
        correlation: Correlation::default(),
        redact: Default::default(),
        sinks: Vec::new(),
    }
}
