//! Being asked to stop: Ctrl-C, SIGTERM, SIGHUP. The first is a wish, the second an order.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, AtomicU32, Ordering},
    },
    thread,
};

use nix::sys::signal::{SigSet, Signal};

/// Knows how often somebody asked. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    asked: AtomicU32,
    // The latest.
    signal: AtomicI32,
    listener: Mutex<Option<Listener>>,
}

type Listener = Box<dyn Fn(u32, Signal) + Send>;

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.asked()).finish()
    }
}

/// Hears of requests for as long as it lives.
pub struct Listening(Stop);

impl Stop {
    /// Takes over the signals of this process. Must come before any other thread is started, since these inherit what is blocked.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::default();
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block()?;
        // For the thread that passes on the size of a terminal: in any other thread the signal would be lost.
        SigSet::from(Signal::SIGWINCH).thread_block()?;
        let asked = stop.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(signal) = signals.wait() {
                asked.ask(signal);
            }
        })?;
        Ok(stop)
    }

    /// Asks once more. Who asks twice while nobody listens does not wait any longer: everything that smidr does survives its being
    /// killed.
    pub fn ask(&self, signal: Signal) {
        let listener = self.0.listener.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.signal.store(signal as i32, Ordering::SeqCst);
        let times = self.0.asked.fetch_add(1, Ordering::SeqCst) + 1;
        match &*listener {
            Some(listener) => listener(times, signal),
            None if times > 1 => std::process::exit(130),
            None => {}
        }
    }

    /// How often somebody asked.
    pub fn asked(&self) -> u32 {
        self.0.asked.load(Ordering::SeqCst)
    }

    /// Calls `listener` with the number of requests and the signal, at each further one, and at once if there was one already.
    pub fn listen(&self, listener: impl Fn(u32, Signal) + Send + 'static) -> Listening {
        let mut place = self.0.listener.lock().unwrap_or_else(PoisonError::into_inner);
        match self.asked() {
            0 => {}
            times => {
                let signal = Signal::try_from(self.0.signal.load(Ordering::SeqCst));
                listener(times, signal.unwrap_or(Signal::SIGINT));
            }
        }
        *place = Some(Box::new(listener));
        Listening(self.clone())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        *self.0.0.listener.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
