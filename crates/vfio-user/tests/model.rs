//! Interrupts that are raised while the client exchanges eventfds and masks, in every order in which the steps can happen.
//!
//! The files under test are those of the library, with the model checker's atomics in place of the standard ones.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the models use a part of what these files offer their crates"
)]

#[path = "../src/irq/line.rs"]
mod line;
#[path = "../src/irq/trigger.rs"]
mod trigger;
#[path = "../src/irq/vector.rs"]
mod vector;

/// What interrupts are written to.
mod eventfd {
    use loom::sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[derive(Debug, Default)]
    pub(crate) struct Eventfd(AtomicU64);

    pub(crate) fn signal(fd: &Eventfd) {
        fd.0.fetch_add(1, SeqCst);
    }

    /// How often it was written since the last time.
    pub(crate) fn count(fd: &Eventfd) -> u64 {
        fd.0.swap(0, SeqCst)
    }
}

/// What the library takes from the standard library, and from `arc-swap` as much as that promises.
mod sync {
    use std::ops::Deref;
    use std::ptr;
    use std::sync::{Arc, Mutex};

    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

    #[derive(Debug)]
    pub(crate) struct ArcSwapOption<T> {
        current: AtomicPtr<T>,
        /// All that ever were in it: to find the one by its address. Not part of the model.
        all: Mutex<Vec<Arc<T>>>,
    }

    impl<T> Default for ArcSwapOption<T> {
        fn default() -> Self {
            let (current, all) = (AtomicPtr::new(ptr::null_mut()), Mutex::default());
            Self { current, all }
        }
    }

    pub(crate) struct Guard<T>(Option<Arc<T>>);

    impl<T> Deref for Guard<T> {
        type Target = Option<Arc<T>>;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }

    impl<T> ArcSwapOption<T> {
        pub(crate) fn load(&self) -> Guard<T> {
            Guard(self.find(self.current.load(Ordering::Acquire)))
        }

        pub(crate) fn swap(&self, new: Option<Arc<T>>) -> Option<Arc<T>> {
            let at = new.as_ref().map_or(ptr::null(), Arc::as_ptr);
            self.all.lock().unwrap().extend(new);
            self.find(self.current.swap(at.cast_mut(), Ordering::AcqRel))
        }

        fn find(&self, at: *const T) -> Option<Arc<T>> {
            let all = self.all.lock().unwrap();
            all.iter().find(|it| ptr::eq(Arc::as_ptr(it), at)).cloned()
        }
    }
}

use std::sync::Arc as StdArc;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use eventfd::{Eventfd, count};
use line::Line;
use vector::{BY_CLIENT, Vector};

fn fd() -> StdArc<Eventfd> {
    StdArc::default()
}

/// The device raises its line as the client hands over another eventfd: that one has heard of it.
#[test]
fn no_edge_is_lost_while_the_eventfd_is_exchanged() {
    loom::model(|| {
        let (line, old, new) = (Arc::new(Line::default()), fd(), fd());
        line.set_trigger(Some(old));
        let device = {
            let line = line.clone();
            thread::spawn(move || line.set_level(true))
        };
        line.set_trigger(Some(new.clone()));
        device.join().unwrap();
        assert!(count(&new) >= 1);
    });
}

/// The line goes down and up as the client, which has been told of it, says that it may rise again.
#[test]
fn no_edge_is_lost_while_the_client_unmasks() {
    loom::model(|| {
        let (line, fd) = (Arc::new(Line::default()), fd());
        line.set_trigger(Some(fd.clone()));
        line.set_level(true);
        line.mask();
        assert_eq!(count(&fd), 1);
        let device = {
            let line = line.clone();
            thread::spawn(move || {
                line.set_level(false);
                line.set_level(true);
            })
        };
        line.unmask();
        device.join().unwrap();
        assert!((1..=2).contains(&count(&fd)));
    });
}

/// A message is raised by the device as `open` says that it may leave.
fn raised_while(closed: impl Fn(&Vector), open: impl Fn(&Vector, &StdArc<Eventfd>)) {
    let (vector, fd) = (Arc::new(Vector::default()), fd());
    vector.set_trigger(Some(fd.clone()));
    closed(&vector);
    let device = {
        let vector = vector.clone();
        thread::spawn(move || vector.raise(|| true))
    };
    open(&vector, &fd);
    vector.deliver(|| true);
    device.join().unwrap();
    assert!(count(&fd) >= 1, "lost");
    assert!(!vector.is_pending(), "not delivered");
}

#[test]
fn no_message_is_lost_while_the_client_unmasks() {
    loom::model(|| {
        raised_while(
            |vector| _ = vector.mask(BY_CLIENT),
            |vector, _| vector.unmask(BY_CLIENT),
        );
    });
}

#[test]
fn no_message_is_lost_while_an_eventfd_comes() {
    loom::model(|| {
        raised_while(
            |vector| _ = vector.set_trigger(None),
            |vector, fd| _ = vector.set_trigger(Some(fd.clone())),
        );
    });
}

/// The client exchanges the eventfd as a message is raised, and listens no longer to the old one after that.
#[test]
fn no_message_is_lost_while_the_eventfd_is_exchanged() {
    loom::model(|| {
        let (vector, old, new) = (Arc::new(Vector::default()), fd(), fd());
        vector.set_trigger(Some(old.clone()));
        let device = {
            let vector = vector.clone();
            thread::spawn(move || vector.raise(|| true))
        };
        vector.set_trigger(Some(new.clone()));
        vector.deliver(|| true);
        let heard = count(&old);
        device.join().unwrap();
        assert!(heard + count(&new) >= 1, "lost");
        assert!(!vector.is_pending(), "not delivered");
    });
}

/// The function may send messages again, says whoever holds that, as one is raised.
#[test]
fn no_message_is_lost_while_the_function_opens() {
    loom::model(|| {
        let (vector, fd) = (Arc::new(Vector::default()), fd());
        vector.set_trigger(Some(fd.clone()));
        let open = Arc::new(AtomicBool::new(false));
        let device = {
            let (vector, open) = (vector.clone(), open.clone());
            thread::spawn(move || vector.raise(|| open.load(Ordering::Acquire)))
        };
        open.store(true, Ordering::Release);
        vector.deliver(|| open.load(Ordering::Acquire));
        device.join().unwrap();
        assert!(count(&fd) >= 1, "lost");
        assert!(!vector.is_pending(), "not delivered");
    });
}
