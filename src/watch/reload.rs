//! The project of some files, loaded anew whenever one of them has changed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use super::WatchError;
use super::debounce::Debounce;
use super::inputs::Survey;
use super::source::{Change, Source};
use crate::load::{LoadError, LoadOptions, Loaded, load};

/// Quiet after the last event; an editor or `git checkout` touches several files, or one several times.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Time after which files that never come to rest are read all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// Loads in a row that find files changed while they were read.
const ATTEMPTS: usize = 5;

/// Follows everything that a project is loaded from, files that do not exist yet too.
#[derive(Debug)]
pub struct Reloader {
    options: LoadOptions,
    /// What the last good load and the last load at all depended on: a file that a wrong edit does not mention any more is
    /// still one that a right edit may need.
    good: BTreeSet<PathBuf>,
    inputs: BTreeSet<PathBuf>,
    source: Source,
    survey: Survey,
    debounce: Debounce,
}

impl Reloader {
    /// Begins to follow what `options` say; the first load is up to the caller. `inputs`: what an earlier load depended on.
    pub fn new(options: LoadOptions, inputs: BTreeSet<PathBuf>) -> Result<Self, WatchError> {
        let mut reloader = Self {
            options,
            good: inputs.clone(),
            survey: Survey::of(&inputs),
            inputs,
            source: Source::new()?,
            debounce: Debounce::new(DEBOUNCE, PATIENCE),
        };
        reloader.watch()?;
        Ok(reloader)
    }

    /// Loads at once.
    pub fn load(&mut self) -> Result<Result<Loaded, LoadError>, WatchError> {
        let mut attempt = 1;
        loop {
            let before = std::mem::take(&mut self.survey);
            let loaded = load(&self.options);
            match &loaded {
                Ok(loaded) => {
                    self.good.clone_from(&loaded.inputs);
                    self.inputs.clone_from(&loaded.inputs);
                }
                Err(error) => {
                    self.inputs.clone_from(&self.good);
                    self.inputs.extend(error.inputs.iter().cloned());
                }
            }
            self.survey = Survey::of(&self.inputs);
            self.watch()?;
            // With a file that was not known, or was written meanwhile, old and new may be mixed.
            if before.includes(&self.survey) || attempt == ATTEMPTS {
                return Ok(loaded);
            }
            attempt += 1;
        }
    }

    /// Waits until something has changed and has come to rest, and loads. Cancel-safe.
    pub async fn next(&mut self) -> Result<Result<Loaded, LoadError>, WatchError> {
        loop {
            self.rest().await;
            self.debounce.clear();
            let now = Survey::of(&self.inputs);
            let is_unchanged = now == self.survey;
            self.survey = now;
            self.watch()?;
            if !is_unchanged {
                return self.load();
            }
        }
    }

    /// Returns when an event that matters has come and no other has followed for a while. Cancel-safe.
    async fn rest(&mut self) {
        loop {
            tokio::select! {
                // Events that are there already come before the end of the wait.
                biased;
                // Cancel-safe by contract.
                change = self.source.next() => {
                    let matters = match &change {
                        Change::Path(path) => self.survey.concerns(path),
                        Change::Anywhere => true,
                    };
                    if matters {
                        self.debounce.notice();
                    } else if self.debounce.is_over() {
                        return;
                    }
                }
                // Cancel-safe by contract.
                () = self.debounce.over() => return,
            }
        }
    }

    /// Watches the folders of the last survey. What happened in one before it was watched is seen by another survey.
    fn watch(&mut self) -> Result<(), WatchError> {
        while self.source.watch_only(&self.survey.folders)? {
            let now = Survey::of(&self.inputs);
            if now != self.survey {
                self.debounce.notice();
            }
            let has_moved = now.folders != self.survey.folders;
            if !has_moved {
                break;
            }
            self.survey.folders = now.folders;
        }
        Ok(())
    }
}
