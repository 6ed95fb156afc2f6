//! What one data thread has to show of its streams: first each one's certificate request, then its heads, in order.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use testimony_core::evidence::note::{PublicKey, SignedNote};
use testimony_core::evidence::seal::{Sealed, Signer};
use testimony_core::evidence::stream::StreamId;
use testimony_core::evidence::witness::Outcome;
use testimony_core::evidence::witness::client::Client;
use testimony_core::evidence::witness::csr::csr;
use testimony_core::record::Typ;
use tokio::sync::Notify;

/// Streams that are not shown to their end, at most; a stream lives a day. At the limit the oldest is given up: the ledger
/// tells it as lost.
pub const STREAMS_MAX: usize = 8;

/// What the operator is to be asked next.
#[derive(Debug, PartialEq, Eq)]
pub enum Errand {
    /// To certify this stream.
    Certificate {
        /// The stream.
        stream: Arc<StreamId>,
        /// Its certificate request (PKCS #10) in DER.
        csr: Vec<u8>,
    },
    /// To cosign a head: the body of the request.
    Checkpoint(String),
}

/// The streams of one data thread, from the oldest that is not shown to its end to the present one.
pub struct Shown {
    streams: VecDeque<Showing>,
    stirred: Rc<Notify>,
}

struct Showing {
    stream: Arc<StreamId>,
    /// Signed at once, because the key goes with its epoch (K1).
    csr: Vec<u8>,
    certified: bool,
    client: Client,
    /// The size with `close`.
    closed_at: Option<u64>,
}

impl Shown {
    /// Nothing yet. `stirred` is told when there is something new.
    pub fn new(stirred: Rc<Notify>) -> Self {
        Self { streams: VecDeque::new(), stirred }
    }

    /// A stream begins under this key.
    pub fn opens(&mut self, stream: &Arc<StreamId>, key: &impl Signer) {
        if self.streams.len() >= STREAMS_MAX
            && let Some(oldest) = self.streams.pop_front()
        {
            tracing::warn!(stream = %oldest.stream, "the witness was away for too long: the stream's end is not shown to it");
        }
        let csr = csr(stream, &key.public(), |info| key.sign(info));
        let client = Client::new(key.public());
        self.streams.push_back(Showing { stream: stream.clone(), csr, certified: false, client, closed_at: None });
    }

    /// A record was sealed.
    pub fn sealed(&mut self, sealed: &Sealed<'_>) {
        let Some(showing) = self.streams.back_mut().filter(|showing| Arc::ptr_eq(&showing.stream, sealed.stream()))
        else {
            return;
        };
        match sealed.typ() {
            Typ::Checkpoint => showing.client.push_record(sealed.body(), false),
            Typ::Close => {
                showing.client.push_record(sealed.body(), true);
                showing.closed_at = Some(sealed.position().size);
            }
            _ => showing.client.push(sealed.leaf()),
        }
    }

    /// A head was signed; it and all that it covers is durable (D1, H1).
    pub fn head(&mut self, stream: &Arc<StreamId>, note: SignedNote, next_key: Option<PublicKey>) {
        let of_head = self.streams.iter_mut().find(|showing| Arc::ptr_eq(&showing.stream, stream));
        let Some(showing) = of_head else { return };
        let size = note.checkpoint.size;
        if showing.client.head(note, next_key) {
            self.stirred.notify_one();
        } else {
            tracing::error!(%stream, size, "a head cannot be shown to the witness");
        }
    }

    /// What to ask next; `None`: all is shown. A checkpoint that was taken is ended by [`Shown::answered`] or
    /// [`Shown::failed`].
    pub fn errand(&mut self) -> Option<Errand> {
        while self.streams.front().is_some_and(Showing::is_over) {
            self.streams.pop_front();
        }
        let front = self.streams.front_mut()?;
        if !front.certified {
            return Some(Errand::Certificate { stream: front.stream.clone(), csr: front.csr.clone() });
        }
        if front.client.is_due() { front.client.request().map(Errand::Checkpoint) } else { None }
    }

    /// Shows the newest cosigned head once more, as a sign of life (H2).
    pub fn again(&mut self) {
        if let Some(front) = self.streams.front_mut() {
            front.client.again();
        }
    }

    /// The operator certified this stream.
    pub fn certified(&mut self, stream: &StreamId) {
        if let Some(showing) = self.streams.iter_mut().find(|showing| *showing.stream == *stream) {
            showing.certified = true;
        }
    }

    /// The answer to the checkpoint that was taken last.
    pub fn answered(&mut self, status: u16, body: &str) -> Option<Outcome> {
        let front = self.streams.front_mut()?;
        let outcome = front.client.answered(status, body);
        if outcome == Outcome::Uncertified {
            front.certified = false;
        }
        Some(outcome)
    }

    /// No answer came.
    pub fn failed(&mut self) {
        if let Some(front) = self.streams.front_mut() {
            front.client.failed();
        }
    }

    /// Streams that are not shown to their end.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Streams of which no head was cosigned yet.
    pub fn unanchored(&self) -> usize {
        self.streams.iter().filter(|showing| showing.client.anchored() == 0).count()
    }

    /// The stream that is being shown, for messages.
    pub fn stream(&self) -> Option<&Arc<StreamId>> {
        self.streams.front().map(|showing| &showing.stream)
    }
}

impl Showing {
    /// The witness has seen its end.
    fn is_over(&self) -> bool {
        self.closed_at.is_some_and(|size| self.client.anchored() >= size && !self.client.is_due())
    }
}
