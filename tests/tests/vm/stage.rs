//! Checks that share something that is expensive to make.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::{Failed, Trial};

/// A list of checks on one `T`, which is made when the first of them runs and dropped after the last. After a check
/// that failed it is made anew, so that one failure does not become many.
pub(crate) struct Stage<T> {
    name: String,
    make: Arc<dyn Fn() -> Result<T> + Send + Sync>,
    made: Arc<Mutex<Option<T>>>,
    trials: Vec<Trial>,
}

impl<T: Send + 'static> Stage<T> {
    pub(crate) fn new(
        name: impl Into<String>,
        make: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            make: Arc::new(make),
            made: Arc::default(),
            trials: Vec::new(),
        }
    }

    /// Adds a check; what it returns is told on stderr.
    pub(crate) fn check(
        mut self,
        name: &str,
        check: impl FnOnce(&mut T) -> Result<String> + Send + 'static,
    ) -> Self {
        self.add(name, |mut made| {
            let said = check(&mut made)?;
            Ok((said, Some(made)))
        });
        self
    }

    /// Adds a check that uses the thing up.
    pub(crate) fn last(
        mut self,
        name: &str,
        check: impl FnOnce(T) -> Result<String> + Send + 'static,
    ) -> Self {
        self.add(name, |made| Ok((check(made)?, None)));
        self
    }

    pub(crate) fn trials(self) -> Vec<Trial> {
        self.trials
    }

    fn add(
        &mut self,
        name: &str,
        check: impl FnOnce(T) -> Result<(String, Option<T>)> + Send + 'static,
    ) {
        let (make, made) = (Arc::clone(&self.make), Arc::clone(&self.made));
        let name = format!("{}::{name}", self.name);
        let told = name.clone();
        let run = move || -> Result<()> {
            let taken = made.lock().unwrap_or_else(PoisonError::into_inner).take();
            let started = Instant::now();
            let thing = match taken {
                Some(thing) => thing,
                None => make()?,
            };
            let (ready, started) = (started.elapsed(), Instant::now());
            let (said, back) = check(thing)?;
            *made.lock().unwrap_or_else(PoisonError::into_inner) = back;
            eprintln!(
                "    {told}: {said} ({:.1?} to set up, {:.1?})",
                ready,
                started.elapsed()
            );
            Ok(())
        };
        self.trials.push(Trial::test(name, move || {
            run().map_err(|error| Failed::from(format!("{error:#}")))
        }));
    }
}
