//! Counters for whoever watches a device: never cleared, never seen by the guest.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A 64-bit event counter that any thread may bump.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` events.
    #[inline]
    pub fn add(&self, n: u64) {
        if n != 0 {
            self.0.fetch_add(n, Relaxed);
        }
    }

    /// As [`add`](Self::add), for a counter that nobody else bumps: without a locked instruction.
    #[inline]
    pub fn add_alone(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Events so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares a set of [`Counter`]s together with its plain snapshot, which can be listed by name.
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])* $vis:vis struct $live:ident => $snapshot:ident {
            $( $(#[doc = $doc:literal])+ $field:ident, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        $vis struct $live {
            $( $(#[doc = $doc])+ pub $field: $crate::common::stats::Counter, )+
        }

        #[doc = concat!("The values of [`", stringify!($live), "`] at one moment.")]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis struct $snapshot {
            $( $(#[doc = $doc])+ pub $field: u64, )+
        }

        impl $live {
            /// Reads all counters, each by itself: a moving set may be a few events apart.
            $vis fn snapshot(&self) -> $snapshot {
                $snapshot { $( $field: self.$field.get(), )+ }
            }
        }

        impl $snapshot {
            /// Name and value of each counter, in order of declaration.
            $vis fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [ $( (stringify!($field), self.$field), )+ ].into_iter()
            }
        }
    };
}

#[cfg(test)]
mod tests {
    counters! {
        /// Two counters.
        pub(super) struct Live => Plain {
            /// Apples.
            apples,
            /// Pears.
            pears,
        }
    }

    #[test]
    fn snapshot_lists_by_name() {
        let live = Live::default();
        live.pears.add(3);
        live.pears.add(0);
        live.apples.add(1);
        let plain: Plain = live.snapshot();
        assert_eq!(
            plain,
            Plain {
                apples: 1,
                pears: 3
            }
        );
        assert_eq!(
            plain.iter().collect::<Vec<_>>(),
            [("apples", 1), ("pears", 3)]
        );
    }
}
