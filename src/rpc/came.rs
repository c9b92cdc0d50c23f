//! A connection that tells once something has come over it: the preface of HTTP/2, or what cannot become one. Half a preface is nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// How each connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether something has come.
#[derive(Clone, Default)]
pub(super) struct Came(Arc<watch::Sender<bool>>);

impl Came {
    /// Waits until something has come.
    pub(super) async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|came| *came).await;
    }
}

/// A connection that is watched.
pub(super) struct Watched<S> {
    stream: S,
    came: Option<Came>,
    // How much of the preface has come.
    begun: usize,
}

impl<S> Watched<S> {
    /// Watches a connection.
    pub(super) fn new(stream: S, came: &Came) -> Self {
        Self { stream, came: Some(came.clone()), begun: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, to);
        let new = to.filled().get(before..).unwrap_or_default();
        if self.came.is_some() && !new.is_empty() {
            let rest = PREFACE.get(self.begun..).unwrap_or_default();
            self.begun += new.len();
            if (new.len() >= rest.len() || !rest.starts_with(new))
                && let Some(came) = self.came.take()
            {
                came.0.send_replace(true);
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
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
