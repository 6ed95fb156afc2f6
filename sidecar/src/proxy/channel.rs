//! One socket of a pair, with what still has to be written to it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A buffer that emptied and is larger than this is given back, so that idle connections cost little.
const KEEP_BYTES_MAX: usize = 4096;

/// A socket and its pending output. While output is pending nothing more is read for it: that is the backpressure.
#[derive(Debug)]
pub(super) struct Channel {
    stream: TcpStream,
    pending: Pending,
    shutdown: Shutdown,
    /// Nothing more will be read.
    pub read_closed: bool,
    /// Nothing more can be written: the peer closed or reset its side. What comes for it is dropped.
    pub write_dead: bool,
}

#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Shutdown {
    No,
    Asked,
    Done,
}

impl Channel {
    pub fn new(stream: TcpStream) -> Self {
        // A failure costs latency only.
        let _ = stream.set_nodelay(true);
        Self { stream, pending: Pending::default(), shutdown: Shutdown::No, read_closed: false, write_dead: false }
    }

    /// The socket alone; pending output is gone with the rest.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Starts with output that came before the socket was connected.
    pub fn with_pending(stream: TcpStream, bytes: Vec<u8>, shutdown: bool) -> Self {
        let mut channel = Self::new(stream);
        channel.pending.bytes = bytes;
        if shutdown {
            channel.shutdown = Shutdown::Asked;
        }
        channel
    }

    /// Whether all output is written and a FIN that was asked for is sent.
    pub fn is_flushed(&self) -> bool {
        self.write_dead || (self.pending.is_empty() && self.shutdown != Shutdown::Asked)
    }

    /// Whether more output may be made.
    pub fn accepts(&self) -> bool {
        self.write_dead || self.pending.is_empty()
    }

    /// Whether this side's output is over for good.
    pub fn write_over(&self) -> bool {
        self.write_dead || self.shutdown == Shutdown::Done
    }

    /// Sends a FIN once all output is written.
    pub fn ask_shutdown(&mut self) {
        if self.shutdown == Shutdown::No {
            self.shutdown = Shutdown::Asked;
        }
    }

    /// Keeps bytes to be written by the next [`Channel::flush`].
    pub fn queue(&mut self, bytes: &[u8]) {
        if !self.write_dead {
            self.pending.bytes.extend_from_slice(bytes);
        }
    }

    /// Writes as much of `bytes` as goes at once and keeps the rest.
    pub fn write(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.write_dead || bytes.is_empty() {
            return Ok(());
        }
        while self.pending.is_empty() && !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => bytes = bytes.get(count..).unwrap_or_default(),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.pending.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Writes what is pending, then the FIN that was asked for. True: something was done.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.write_dead {
            return Ok(false);
        }
        let mut moved = false;
        while let Some(rest) = self.pending.rest() {
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => self.pending.advance(count),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(moved),
            }
            moved = true;
        }
        if self.shutdown == Shutdown::Asked {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Ready(result) => {
                    self.shutdown = Shutdown::Done;
                    result?;
                    moved = true;
                }
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    /// Reads into `buffer`. `Ready(Ok(0))`: the peer sent a FIN.
    pub fn read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {
                if buffer.filled().is_empty() {
                    self.read_closed = true;
                }
                Poll::Ready(Ok(buffer.filled().len()))
            }
            Poll::Ready(Err(error)) => {
                self.read_closed = true;
                Poll::Ready(Err(error))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Makes the next close a reset (RST), so that the peer can't take a cut message for a whole one.
    pub fn reset_on_close(&self) {
        // `set_linger` with zero never blocks; a failure leaves an ordinary close.
        #[allow(deprecated)]
        let _ = self.stream.set_linger(Some(Duration::ZERO));
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.written >= self.bytes.len()
    }

    fn rest(&self) -> Option<&[u8]> {
        self.bytes.get(self.written..).filter(|rest| !rest.is_empty())
    }

    fn advance(&mut self, count: usize) {
        self.written = self.written.saturating_add(count);
        if self.is_empty() {
            self.written = 0;
            if self.bytes.capacity() > KEEP_BYTES_MAX {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        }
    }
}
