//! Threads for what may hang, there before they are needed: a host that has no thread left, or a
//! cgroup whose `pids.max` COMMAND has used up, must not keep tracer from looking.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use crate::priority;

type Job = Box<dyn FnOnce() + Send>;

/// Most threads: whoever keeps asking about processes that cannot be looked at must not have them all.
const MOST: usize = 64;

/// The threads. They end, once they have nothing to do, when this is dropped; one that hangs ends
/// with the process.
pub(super) struct Threads {
    jobs: Sender<Job>,
    queue: Arc<Mutex<Receiver<Job>>>,
    begun: AtomicUsize,
    /// Jobs that are not done, those that hang among them.
    open: Arc<AtomicUsize>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Threads")
    }
}

impl Threads {
    /// Starts so many.
    ///
    /// # Errors
    /// There are not so many to be had.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = Self { jobs, queue, begun: AtomicUsize::new(0), open: Arc::default() };
        for _ in 0..count {
            threads.begin()?;
        }
        Ok(threads)
    }

    /// Starts another one, in the place of one that hangs, unless one that hung is free again.
    ///
    /// # Errors
    /// There is none to be had, or too many hang.
    pub(super) fn add(&self) -> io::Result<()> {
        let begun = self.begun.load(Ordering::Relaxed);
        if self.open.load(Ordering::Relaxed) < begun {
            return Ok(());
        }
        if begun >= MOST {
            return Err(io::Error::other(format!("{MOST} hang already")));
        }
        self.begin()
    }

    fn begin(&self) -> io::Result<()> {
        let queue = Arc::clone(&self.queue);
        let work = move || {
            priority::raise(priority::JUDGES);
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match job {
                    Ok(job) => job(),
                    Err(_) => return,
                }
            }
        };
        thread::Builder::new().name("tracer-look".to_owned()).spawn(work)?;
        self.begun.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Has this done by the first thread that is free.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let open = Arc::clone(&self.open);
        open.fetch_add(1, Ordering::Relaxed);
        let job = move || {
            job();
            open.fetch_sub(1, Ordering::Relaxed);
        };
        // The queue lives as long as this.
        let _ = self.jobs.send(Box::new(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_hang() {
        let threads = Threads::start(1).unwrap();
        let gate = Arc::new(Mutex::new(()));
        let hangs = || {
            let gate = Arc::clone(&gate);
            threads.run(move || drop(gate.lock()));
        };
        let closed = gate.lock().unwrap();
        for _ in 1..MOST {
            hangs();
            threads.add().unwrap();
        }
        hangs();
        assert!(threads.add().is_err());
        drop(closed);
        // They are free again, and one is enough.
        while threads.add().is_err() {
            thread::yield_now();
        }
        assert_eq!(threads.begun.load(Ordering::Relaxed), MOST);
    }

    #[test]
    fn a_job_that_hangs_keeps_only_its_own_thread() {
        let threads = Threads::start(1).unwrap();
        let (release, hung) = channel::<()>();
        let (tell, told) = channel();
        threads.run(move || assert!(hung.recv().is_err()));
        let after = tell.clone();
        threads.run(move || after.send("after").unwrap());
        assert!(told.try_recv().is_err());
        threads.add().unwrap();
        assert_eq!(told.recv().unwrap(), "after");
        drop(release);
    }

    #[test]
    fn threads_end_with_their_owner() {
        let threads = Threads::start(2).unwrap();
        let queue = Arc::downgrade(&threads.queue);
        let (tell, told) = channel::<()>();
        // Gone when the last thread is: each holds the queue.
        threads.run(move || {
            let _held = tell;
        });
        drop(threads);
        assert!(told.recv().is_err());
        while queue.upgrade().is_some() {
            thread::yield_now();
        }
    }
}
