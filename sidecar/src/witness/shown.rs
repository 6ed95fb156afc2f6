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

/// So many refusals of a stream's heads, with none cosigned between them, are for good: what the witness says of a stream that
/// went back, or whose answer was lost, is over with the second.
pub const REFUSED_MAX: u32 = 3;

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
    /// Refusals since a head was cosigned.
    refused: u32,
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
        let stream = stream.clone();
        self.streams.push_back(Showing { stream, csr, certified: false, client, closed_at: None, refused: 0 });
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
        if self.gives_up()
            && let Some(refused) = self.streams.pop_front()
        {
            let (stream, anchored) = (&refused.stream, refused.client.anchored());
            tracing::warn!(%stream, anchored, "the witness takes no more of this stream: what follows there stays unanchored");
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
        match outcome {
            Outcome::Uncertified => front.certified = false,
            Outcome::Expired | Outcome::Ahead(_) | Outcome::Refused(..) => {
                front.refused = front.refused.saturating_add(1)
            }
            Outcome::Cosigned(_) | Outcome::Again => front.refused = 0,
            // These decide nothing.
            Outcome::WentBack | Outcome::Later | Outcome::Denied(..) => {}
        }
        Some(outcome)
    }

    /// Whether the stream that is being shown is refused for good, and another one waits behind it: that one comes next.
    pub fn gives_up(&self) -> bool {
        self.streams.len() > 1 && self.streams.front().is_some_and(Showing::is_refused)
    }

    /// The present stream, if it was cosigned once and is refused for good now: only the next one can be anchored. One that was
    /// refused from its beginning gives no hope for another.
    pub fn stuck(&self) -> Option<&Arc<StreamId>> {
        let present = self.streams.front().filter(|_| self.streams.len() == 1)?;
        (present.is_refused() && present.closed_at.is_none() && present.client.anchored() > 0)
            .then_some(&present.stream)
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

    /// The witness will take no more of it.
    fn is_refused(&self) -> bool {
        self.refused >= REFUSED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::EpochKey;
    use testimony_core::evidence::note::Signature;
    use testimony_core::evidence::seal::{Head, Host, Origin, Stream, Wanted};
    use testimony_core::evidence::witness::Refusal;
    use testimony_core::record::{GapReason, Stamp};

    /// A data thread without anything else.
    struct Thread(Shown);

    impl Host for Thread {
        type Key = EpochKey;

        fn random(&mut self) -> u128 {
            7
        }

        fn key(&mut self) -> Option<EpochKey> {
            EpochKey::generate()
        }

        fn opens(&mut self, stream: &Arc<StreamId>, key: &EpochKey) {
            self.0.opens(stream, key);
        }

        fn reserve(&mut self, _: Wanted) -> Result<(), GapReason> {
            Ok(())
        }

        fn write(&mut self, sealed: Sealed<'_>) {
            self.0.sealed(&sealed);
        }

        fn head(&mut self, head: Head<'_>) {
            self.0.head(head.stream(), head.note().clone(), head.next_key());
        }
    }

    /// What a witness answers to a head.
    #[derive(Clone, Copy, Debug)]
    enum Says {
        Cosigns,
        Refuses(Refusal),
        Else(u16),
    }
    use Says::{Cosigns, Else, Refuses};

    struct Scene {
        thread: Thread,
        stream: Stream<EpochKey>,
        mono_ns: u64,
    }

    impl Scene {
        /// A stream that is certified, and of which a head waits.
        fn new() -> Self {
            let mut thread = Thread(Shown::new(Rc::default()));
            let text = |text: &str| text.to_owned();
            let (cluster_uid, namespace, pod_uid) = (text("c"), text("n"), text("p"));
            let origin = Origin { cluster_uid, namespace, pod_uid, witness: true, ..Origin::default() };
            let key = EpochKey::generate().expect("a key");
            let stream = Stream::open(origin, key, "r", Stamp::default(), &mut thread).expect("a name");
            let mut scene = Self { thread, stream, mono_ns: 0 };
            scene.tick();
            scene.certify(0);
            scene
        }

        fn now(&self) -> Stamp {
            Stamp { wall_ns: self.mono_ns, mono_ns: self.mono_ns }
        }

        fn settle(&mut self) {
            let (now, position) = (self.now(), self.stream.position());
            self.stream.durable(position, now, &mut self.thread);
        }

        /// A checkpoint, with its head.
        fn tick(&mut self) {
            self.mono_ns += 301_000_000_000;
            self.stream.tick(self.now(), &mut self.thread);
            self.settle();
        }

        fn rotate(&mut self) {
            assert!(self.stream.renew(self.now(), &mut self.thread));
            self.settle();
        }

        /// The next errand is to certify the stream of this number.
        fn certify(&mut self, number: u64) {
            let Some(Errand::Certificate { stream, .. }) = self.thread.0.errand() else { panic!("none for {number}") };
            assert_eq!(stream.parts().map(|parts| parts.rotation), Some(number));
            self.thread.0.certified(&stream);
        }

        /// Shows the next head.
        fn show(&mut self, says: Says) -> Outcome {
            let errand = self.thread.0.errand();
            assert!(matches!(errand, Some(Errand::Checkpoint(_))), "{errand:?} {says:?}");
            let signature = Signature::witness("w", &PublicKey([1; 32]), 1, &[2; 64]).line();
            let answered = match says {
                Cosigns => self.thread.0.answered(200, &signature),
                Refuses(refusal) => self.thread.0.answered(refusal.status(), &refusal.body()),
                Else(status) => self.thread.0.answered(status, ""),
            };
            answered.expect("a stream")
        }
    }

    #[test]
    fn w2_a_stream_that_is_refused_for_good_does_not_keep_the_next_one() {
        let foreign = [Refuses(Refusal::Signature), Refuses(Refusal::Rebase)];
        let table = [
            vec![Refuses(Refusal::Expired); 3],
            // The witness began anew, under another key.
            foreign.repeat(2),
            [Refuses(Refusal::Known(1)), Refuses(Refusal::Rebase)].repeat(2),
            // It knows more than the stream.
            vec![Refuses(Refusal::Known(1 << 40)); 3],
            vec![Refuses(Refusal::Consistency), Else(503), Else(403), Else(422), Refuses(Refusal::Closed)],
        ];
        for answers in table {
            let mut scene = Scene::new();
            scene.show(Cosigns);
            scene.tick();
            scene.rotate();
            for says in &answers {
                assert!(!scene.thread.0.gives_up(), "{answers:?}");
                scene.show(*says);
            }
            assert!(scene.thread.0.gives_up(), "{answers:?}");
            scene.certify(1);
            assert_eq!((scene.thread.0.streams(), scene.thread.0.unanchored()), (1, 1), "{answers:?}");
            scene.tick();
            assert!(matches!(scene.show(Cosigns), Outcome::Cosigned(_)), "{answers:?}");
        }
    }

    #[test]
    fn w2_a_stream_is_not_given_up_for_what_passes() {
        let twice = [Refuses(Refusal::Consistency), Refuses(Refusal::Closed)];
        let mut scene = Scene::new();
        scene.rotate();
        for says in [Else(403), Else(401), Else(503), Else(404)].repeat(2) {
            scene.show(says);
            if matches!(says, Else(404)) {
                scene.certify(0);
            }
        }
        twice.into_iter().for_each(|says| drop(scene.show(says)));
        assert!(!scene.thread.0.gives_up());
        assert!(matches!(scene.show(Cosigns), Outcome::Cosigned(_)));
        scene.certify(1);
    }

    #[test]
    fn w2_the_present_stream_is_stuck_if_it_was_cosigned_and_is_refused_for_good() {
        let refused = [Refuses(Refusal::Closed); REFUSED_MAX as usize];
        let mut fresh = Scene::new();
        refused.into_iter().for_each(|says| drop(fresh.show(says)));
        assert_eq!(fresh.thread.0.stuck(), None, "the next one would be refused, too");
        let mut scene = Scene::new();
        scene.show(Cosigns);
        scene.tick();
        assert_eq!(scene.thread.0.stuck(), None);
        refused.into_iter().for_each(|says| drop(scene.show(says)));
        assert_eq!(scene.thread.0.stuck(), Some(scene.stream.id()));
        assert!(!scene.thread.0.gives_up(), "nothing waits behind it");
        scene.rotate();
        assert!(scene.thread.0.gives_up() && scene.thread.0.stuck().is_none());
        scene.certify(1);
    }
}
