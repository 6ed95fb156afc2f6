//! One direction of a stream: what one side sent goes to the other, as fast as that takes it.

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use std::task::{Context, Poll, ready};

/// One direction. Holds one frame's payload at most; its window is given back to the sender only as the other side takes it,
/// so that flow control reaches from end to end.
#[derive(Default)]
pub(super) struct Pump {
    held: Bytes,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Data,
    Trailers,
    Over,
}

/// What went by.
pub(super) enum Passed<'a> {
    Data(&'a [u8]),
    Trailers(&'a HeaderMap),
}

/// Why a direction stopped.
pub(super) enum Stopped {
    /// Its sender failed.
    Source(h2::Error),
    /// Its receiver takes nothing more.
    Sink,
}

impl Pump {
    /// A direction in which nothing is to come.
    pub fn over() -> Self {
        Self { phase: Phase::Over, ..Self::default() }
    }

    /// Everything went through.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Something waits for the receiver's window.
    pub fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Passes on what can be passed on. Ready: all of it went, or it stopped.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut RecvStream,
        sink: &mut SendStream<Bytes>,
        mut tell: impl FnMut(Passed<'_>),
    ) -> Poll<Result<(), Stopped>> {
        loop {
            match self.phase {
                Phase::Over => return Poll::Ready(Ok(())),
                Phase::Data if self.held.is_empty() => match ready!(source.poll_data(cx)) {
                    Some(Ok(data)) => {
                        tell(Passed::Data(&data));
                        // An empty frame without END_STREAM says nothing; with it, the end is a frame of its own.
                        self.held = data;
                        if self.held.is_empty() && source.is_end_stream() {
                            self.finish(sink)?;
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Err(Stopped::Source(error))),
                    None => self.phase = Phase::Trailers,
                },
                Phase::Data => ready!(self.push(cx, source, sink))?,
                Phase::Trailers => match ready!(source.poll_trailers(cx)) {
                    Ok(Some(trailers)) => {
                        tell(Passed::Trailers(&trailers));
                        self.phase = Phase::Over;
                        if sink.send_trailers(trailers).is_err() {
                            return Poll::Ready(Err(Stopped::Sink));
                        }
                    }
                    Ok(None) => self.finish(sink)?,
                    Err(error) => return Poll::Ready(Err(Stopped::Source(error))),
                },
            }
        }
    }

    /// Sends the held payload within the receiver's window.
    fn push(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut RecvStream,
        sink: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), Stopped>> {
        sink.reserve_capacity(self.held.len());
        let mut capacity = sink.capacity();
        if capacity == 0 {
            capacity = match ready!(sink.poll_capacity(cx)) {
                Some(Ok(capacity)) => capacity,
                Some(Err(_)) | None => return Poll::Ready(Err(Stopped::Sink)),
            };
        }
        let piece = self.held.split_to(capacity.min(self.held.len()));
        let count = piece.len();
        let is_last = self.held.is_empty() && source.is_end_stream();
        if sink.send_data(piece, is_last).is_err() {
            return Poll::Ready(Err(Stopped::Sink));
        }
        if is_last {
            self.phase = Phase::Over;
        }
        // It fails only if more is released than came.
        let _ = source.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, sink: &mut SendStream<Bytes>) -> Result<(), Stopped> {
        self.phase = Phase::Over;
        sink.send_data(Bytes::new(), true).map_err(|_| Stopped::Sink)
    }
}
