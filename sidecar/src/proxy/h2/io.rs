//! A socket as the library sees it, with a watch on the frames of both directions.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use testimony_core::http2::{FrameWatch, Seen};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Most frames of interest that wait to be looked at; those beyond are not told. One turn of the library reads no more than
/// a few socket buffers, and a header has 9 bytes at least.
const SEEN_MAX: usize = 16 * 1024;

/// What went over a socket since the last look.
#[derive(Clone)]
pub(super) struct Side(Rc<RefCell<State>>);

struct State {
    read: FrameWatch,
    written: FrameWatch,
    seen_read: Vec<Seen>,
    seen_written: Vec<Seen>,
    moved: bool,
    reset_on_close: bool,
}

impl Side {
    /// The socket to a client.
    pub fn of_client() -> Self {
        Self::new(FrameWatch::of_client(), FrameWatch::of_server())
    }

    /// The socket to a server.
    pub fn of_server() -> Self {
        Self::new(FrameWatch::of_server(), FrameWatch::of_client())
    }

    fn new(read: FrameWatch, written: FrameWatch) -> Self {
        let (seen_read, seen_written) = (Vec::new(), Vec::new());
        let state = State { read, written, seen_read, seen_written, moved: false, reset_on_close: false };
        Self(Rc::new(RefCell::new(state)))
    }

    /// What the peer sent since the last call.
    pub fn take_read(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.borrow_mut().seen_read)
    }

    /// What was sent to the peer since the last call.
    pub fn take_written(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.borrow_mut().seen_written)
    }

    /// Whether anything moved since the last call.
    pub fn take_moved(&self) -> bool {
        std::mem::replace(&mut self.0.borrow_mut().moved, false)
    }

    /// The peer is in the middle of a header block.
    pub fn is_in_head(&self) -> bool {
        self.0.borrow().read.is_in_head()
    }

    /// Whether the socket's close is a reset, so that the peer can't take what it got for all there was.
    pub fn reset_on_close(&self, reset: bool) {
        self.0.borrow_mut().reset_on_close = reset;
    }

    fn feed(&self, is_read: bool, bytes: &[u8]) {
        let State { read, written, seen_read, seen_written, moved, .. } = &mut *self.0.borrow_mut();
        let (watch, seen) = if is_read { (read, seen_read) } else { (written, seen_written) };
        *moved |= !bytes.is_empty();
        watch.feed(bytes, |what| {
            if seen.len() < SEEN_MAX {
                seen.push(what);
            }
        });
    }
}

/// A socket of one of the two connections.
pub(super) struct Io {
    stream: TcpStream,
    /// Bytes that were read before, and how many of them are handed on.
    prefix: Vec<u8>,
    handed: usize,
    side: Side,
}

impl Io {
    /// `prefix` was read from the socket already.
    pub fn new(stream: TcpStream, prefix: Vec<u8>, side: Side) -> Self {
        // A failure costs latency only.
        let _ = stream.set_nodelay(true);
        Self { stream, prefix, handed: 0, side }
    }

    /// What was read ahead of the library.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Reads more of it. False: the peer sent a FIN.
    pub async fn read_ahead(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.prefix).await? > 0)
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if self.side.0.borrow().reset_on_close {
            // `set_linger` with zero never blocks; a failure leaves an ordinary close.
            #[allow(deprecated)]
            let _ = self.stream.set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, prefix, handed, side } = &mut *self;
        let before = buf.filled().len();
        let rest = prefix.get(*handed..).unwrap_or_default();
        if rest.is_empty() {
            match Pin::new(stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        } else {
            let count = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..count).unwrap_or_default());
            *handed = handed.saturating_add(count);
            if *handed >= prefix.len() {
                *prefix = Vec::new();
                *handed = 0;
            }
        }
        side.feed(true, buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.side.feed(false, buf.get(..count).unwrap_or_default());
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut left)) = written {
            for buf in bufs {
                let count = left.min(buf.len());
                self.side.feed(false, buf.get(..count).unwrap_or_default());
                left = left.saturating_sub(count);
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
