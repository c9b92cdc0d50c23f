//! Requests to stop, by Ctrl-C, SIGTERM, SIGHUP or a caller. Every stage of a build looks at its token; nothing here ends the process.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI32, AtomicU8, Ordering},
    },
    thread,
};

use nix::sys::signal::{SigSet, Signal};

/// How a stop is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopRequest {
    /// What runs may end, nothing new is begun.
    Graceful,
    /// Everything is killed.
    Kill,
}

/// Tells whether a stop was asked for. Clones are the same token; a child also stops when its parent does.
#[derive(Clone, Default)]
pub struct StopToken(Arc<Inner>);

#[derive(Default)]
struct Inner {
    // 0, or a request as a number.
    requested: AtomicU8,
    signal: AtomicI32,
    tree: Mutex<Tree>,
}

#[derive(Default)]
struct Tree {
    next: u64,
    listeners: BTreeMap<u64, Listener>,
    children: Vec<Weak<Inner>>,
}

type Listener = Box<dyn Fn(StopRequest) + Send>;

impl fmt::Debug for StopToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StopToken").field(&self.requested()).finish()
    }
}

/// A listener is called for as long as this lives.
pub struct Listening {
    token: StopToken,
    number: u64,
}

/// The error of what a stop has ended.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

impl StopToken {
    /// A token for the signals of this process: the first one is graceful, each further one kills, but for hangups. Must come before any other thread is
    /// started, since threads inherit which signals are blocked.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn on_signals() -> io::Result<Self> {
        // A terminal that is closed sends it more than once: the kernel does, and the shell.
        Self::on_signals_and(|token| token.request(StopRequest::Graceful))
    }

    /// As [`StopToken::on_signals`], with something else to do at hangups (SIGHUP).
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn on_signals_and(at_hangup: impl Fn(&Self) + Send + 'static) -> io::Result<Self> {
        let token = Self::default();
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block()?;
        // For the thread that passes on the size of a terminal: in any other thread the signal would be lost.
        SigSet::from(Signal::SIGWINCH).thread_block()?;
        let asked = token.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(signal) = signals.wait() {
                asked.0.signal.store(signal as i32, Ordering::SeqCst);
                if signal == Signal::SIGHUP { at_hangup(&asked) } else { asked.escalate() }
            }
        })?;
        Ok(token)
    }

    /// A token that this one stops, too. A stop of the child does not reach the parent.
    pub fn child(&self) -> Self {
        let child = Self::default();
        let mut tree = self.tree();
        child.0.requested.store(self.0.requested.load(Ordering::SeqCst), Ordering::SeqCst);
        tree.children.retain(|known| known.strong_count() > 0);
        tree.children.push(Arc::downgrade(&child.0));
        child
    }

    /// Asks for a stop. What was asked for before is never weakened.
    pub fn request(&self, request: StopRequest) {
        let tree = self.tree();
        self.0.requested.fetch_max(request as u8 + 1, Ordering::SeqCst);
        let now = self.requested().unwrap_or(request);
        tree.listeners.values().for_each(|listener| listener(now));
        let children: Vec<_> = tree.children.iter().filter_map(Weak::upgrade).collect();
        drop(tree);
        children.into_iter().for_each(|child| Self(child).request(now));
    }

    /// Asks for more than was asked for before.
    pub fn escalate(&self) {
        self.request(if self.is_requested() { StopRequest::Kill } else { StopRequest::Graceful });
    }

    /// What was asked for, if anything.
    pub fn requested(&self) -> Option<StopRequest> {
        match self.0.requested.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(StopRequest::Graceful),
            _ => Some(StopRequest::Kill),
        }
    }

    /// Ends what would go on in vain.
    ///
    /// # Errors
    ///
    /// When a stop was asked for.
    pub fn check(&self) -> Result<(), Stopped> {
        if self.is_requested() { Err(Stopped) } else { Ok(()) }
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.requested().is_some()
    }

    /// The last signal that asked.
    pub fn signal(&self) -> Signal {
        Signal::try_from(self.0.signal.load(Ordering::SeqCst)).unwrap_or(Signal::SIGINT)
    }

    /// Calls `listener` at each request, and at once if there was one before. It must not listen or ask itself.
    pub fn listen(&self, listener: impl Fn(StopRequest) + Send + 'static) -> Listening {
        let mut tree = self.tree();
        if let Some(request) = self.requested() {
            listener(request);
        }
        let number = tree.next;
        tree.next += 1;
        tree.listeners.insert(number, Box::new(listener));
        Listening { token: self.clone(), number }
    }

    /// A reader that fails with [`Stopped`] once a stop is asked for: for copies that take long.
    pub fn reader<R: Read>(&self, from: R) -> impl Read + use<R> {
        StoppableReader { from, token: self.clone() }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.token.tree().listeners.remove(&self.number);
    }
}

struct StoppableReader<R> {
    from: R,
    token: StopToken,
}

impl<R: Read> Read for StoppableReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.token.check().map_err(io::Error::other)?;
        self.from.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn every_listener_is_called_and_only_while_it_lives() {
        let token = StopToken::default();
        let (sender, heard) = mpsc::channel();
        let listen = |name: &'static str| {
            let sender = sender.clone();
            token.listen(move |request| sender.send((name, request)).expect("a receiver"))
        };
        let (first, second) = (listen("first"), listen("second"));
        token.escalate();
        drop(first);
        token.escalate();
        token.request(StopRequest::Graceful);
        let late = listen("late");
        let expected = [
            ("first", StopRequest::Graceful),
            ("second", StopRequest::Graceful),
            ("second", StopRequest::Kill),
            ("second", StopRequest::Kill),
            ("late", StopRequest::Kill),
        ];
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), expected);
        drop((second, late));
        assert!(token.tree().listeners.is_empty());
    }

    #[test]
    fn a_stop_goes_to_children_and_not_to_parents() {
        let parent = StopToken::default();
        let (one, other) = (parent.child(), parent.child());
        one.request(StopRequest::Graceful);
        assert_eq!([&parent, &one, &other].map(StopToken::is_requested), [false, true, false]);
        parent.request(StopRequest::Kill);
        assert_eq!([&one, &other, &parent.child()].map(StopToken::requested), [Some(StopRequest::Kill); 3]);
    }

    #[test]
    fn a_copy_ends_at_a_stop() {
        let token = StopToken::default();
        let mut reader = token.reader(io::repeat(7));
        reader.read_exact(&mut [0; 9]).expect("read");
        token.escalate();
        let error = reader.read_exact(&mut [0; 9]).expect_err("stopped");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Stopped>()), "{error}");
    }
}
