//! `develop.watch`: which files concern which service, and what has become of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::WatchError;
use super::debounce::Debounce;
use super::ignore::{ALWAYS, Patterns};
use super::inputs::Survey;
use super::source::{Change, Source};
use super::tree::{Differences, Selection, Tree};
use crate::model::{Hook, Project, Service, WatchRule};

/// Quiet after the last event, as with Docker.
const DEBOUNCE: Duration = Duration::from_millis(500);

/// Time after which changes that never come to an end are passed on all the same.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is done when files of a rule change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Rebuild,
    Sync,
    Restart,
    SyncRestart,
    SyncExec,
}

impl Action {
    fn of(text: &str) -> Option<Self> {
        match text {
            "rebuild" => Some(Self::Rebuild),
            "sync" => Some(Self::Sync),
            "restart" => Some(Self::Restart),
            "sync+restart" => Some(Self::SyncRestart),
            "sync+exec" => Some(Self::SyncExec),
            _ => None,
        }
    }

    /// Whether files are copied into the containers.
    pub const fn syncs(self) -> bool {
        matches!(self, Self::Sync | Self::SyncRestart | Self::SyncExec)
    }

    /// Whether the containers are started again.
    pub const fn restarts(self) -> bool {
        matches!(self, Self::Restart | Self::SyncRestart)
    }
}

/// One file or folder that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// On the host.
    pub source: PathBuf,
    /// In the container; empty without a target.
    pub target: PathBuf,
    /// It is not there any more, nor what was below it.
    pub gone: bool,
}

/// What has changed under one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub service: String,
    /// Number of the rule in `develop.watch`.
    pub rule: usize,
    pub action: Action,
    /// What is gone comes first; a folder comes before what is in it.
    pub changes: Vec<Changed>,
    /// For [`Action::SyncExec`].
    pub exec: Option<Hook>,
}

/// A rule cannot be followed.
#[derive(Debug, Error)]
#[error("services.{service}.develop.watch[{rule}]: {reason}")]
pub struct RuleError {
    pub service: String,
    pub rule: usize,
    pub reason: String,
}

/// The files of one rule.
#[derive(Debug)]
struct Rule {
    service: String,
    number: usize,
    action: Action,
    target: PathBuf,
    exec: Option<Hook>,
    initial_sync: bool,
    filter: Filter,
    survey: Survey,
    tree: Tree,
    /// Everything below the root that has changed since the beginning: what a new container lacks.
    touched: BTreeSet<PathBuf>,
    /// Paths to look at.
    dirty: BTreeSet<PathBuf>,
}

/// Which files below a root count.
#[derive(Debug)]
struct Filter {
    root: PathBuf,
    always: Patterns,
    ignore: Patterns,
    include: Patterns,
    /// `.dockerignore`, and the folder that it stands in.
    docker: Option<(PathBuf, Patterns)>,
}

impl Filter {
    fn relative<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.root).ok()
    }

    fn docker<'a>(&self, path: &'a Path) -> Option<(&Patterns, &'a Path)> {
        let (folder, patterns) = self.docker.as_ref()?;
        Some((patterns, path.strip_prefix(folder).ok()?))
    }
}

impl Selection for Filter {
    fn takes(&self, path: &Path) -> bool {
        let Some(relative) = self.relative(path) else {
            return false;
        };
        let is_docker = self
            .docker(path)
            .is_some_and(|(patterns, path)| patterns.matches(path));
        !self.always.matches(relative)
            && !self.ignore.matches(relative)
            && !is_docker
            && (self.include.is_empty() || self.include.matches(relative))
    }

    fn skips(&self, folder: &Path) -> bool {
        let Some(relative) = self.relative(folder) else {
            return true;
        };
        // The root itself is always looked at.
        if relative.as_os_str().is_empty() {
            return false;
        }
        let is_docker = self
            .docker(folder)
            .is_some_and(|(patterns, path)| patterns.matches_all_of(path));
        is_docker || self.always.matches_all_of(relative) || self.ignore.matches_all_of(relative)
    }
}

/// All rules of a project, followed.
#[derive(Debug)]
pub struct Develop {
    rules: Vec<Rule>,
    source: Source,
    debounce: Debounce,
}

impl Develop {
    /// Begins to follow the rules of the enabled services of `project`; what is wrong with one is told, and the others are
    /// followed.
    pub fn new(project: &Project) -> Result<(Self, Vec<RuleError>), WatchError> {
        let mut develop = Self {
            rules: Vec::new(),
            source: Source::new()?,
            debounce: Debounce::new(DEBOUNCE, PATIENCE),
        };
        let mut errors = Vec::new();
        for service in project.services.values() {
            let rules = service.develop.iter().flat_map(|develop| &develop.watch);
            for (number, rule) in rules.enumerate() {
                match compile(service, number, rule) {
                    Ok(rule) => develop.rules.push(rule),
                    Err(reason) => errors.push(RuleError {
                        service: service.name.clone(),
                        rule: number,
                        reason,
                    }),
                }
            }
        }
        for rule in &mut develop.rules {
            rule.look_at_root(&mut develop.source)?;
        }
        Ok((develop, errors))
    }

    /// Goes on from `earlier`, which followed another state of the project: rules that are in both remember what has changed,
    /// and [`Self::next`] tells what `earlier` has not told yet.
    pub fn resume(&mut self, mut earlier: Self) {
        for rule in &mut self.rules {
            let same = |old: &Rule| {
                old.service == rule.service
                    && old.filter.root == rule.filter.root
                    && old.target == rule.target
            };
            let Some(at) = earlier.rules.iter().position(same) else {
                continue;
            };
            let old = earlier.rules.swap_remove(at);
            rule.tree = old.tree;
            rule.tree.retain(&rule.filter);
            rule.touched = old.touched;
            rule.touched.retain(|path| !rule.filter.skips(path));
            rule.dirty.insert(rule.filter.root.clone());
            self.debounce.notice();
        }
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules: service, number, action.
    pub fn rules(&self) -> impl Iterator<Item = (&str, usize, Action)> {
        self.rules
            .iter()
            .map(|rule| (rule.service.as_str(), rule.number, rule.action))
    }

    /// What new containers of `service` lack: all files of rules with `initial_sync`, of the others those that have changed
    /// since the beginning.
    pub fn missing(&self, service: &str) -> Vec<Batch> {
        let rules = self.rules.iter().filter(|rule| rule.service == service);
        rules
            .filter(|rule| rule.action.syncs())
            .filter_map(|rule| {
                let mut found = Differences::default();
                for path in &rule.touched {
                    if rule.tree.knows(path) {
                        found.present.insert(path.clone());
                    } else {
                        found.gone.insert(path.clone());
                    }
                }
                if rule.initial_sync {
                    found.present.extend(rule.tree.paths().cloned());
                }
                let batch = rule.batch(&found)?;
                Some(Batch {
                    // It has just been started.
                    action: Action::Sync,
                    exec: None,
                    ..batch
                })
            })
            .collect()
    }

    /// Waits until files have changed and have come to rest. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<Batch>, WatchError> {
        loop {
            self.rest().await;
            self.debounce.clear();
            let mut batches = Vec::new();
            for rule in &mut self.rules {
                let found = rule.look(&mut self.source)?;
                rule.touched.extend(found.present.iter().cloned());
                rule.touched.extend(found.gone.iter().cloned());
                batches.extend(rule.batch(&found));
            }
            if !batches.is_empty() {
                return Ok(batches);
            }
        }
    }

    /// Returns when an event that matters has come and no other has followed for a while. Cancel-safe.
    async fn rest(&mut self) {
        loop {
            tokio::select! {
                // Cancel-safe by contract.
                change = self.source.next() => {
                    let mut matters = false;
                    for rule in &mut self.rules {
                        matters |= rule.hear(&change);
                    }
                    if matters {
                        self.debounce.notice();
                    }
                }
                // Cancel-safe by contract.
                () = self.debounce.over() => return,
            }
        }
    }
}

impl Rule {
    /// Notes what an event says; whether it says anything. What is ignored is not looked at.
    fn hear(&mut self, change: &Change) -> bool {
        let root = &self.filter.root;
        match change {
            Change::Path(path) if path.starts_with(root) && path != root => {
                let counts = self.filter.takes(path) || !self.filter.skips(path);
                if counts {
                    self.dirty.insert(path.clone());
                }
                counts
            }
            Change::Path(path) if !self.survey.concerns(path) => false,
            Change::Path(_) | Change::Anywhere => {
                self.dirty.insert(root.clone());
                true
            }
        }
    }

    fn look(&mut self, source: &mut Source) -> Result<Differences, WatchError> {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.contains(&self.filter.root) {
            return self.look_at_root(source);
        }
        let mut found = Differences::default();
        for path in dirty {
            let more = self.tree.look(&path, &self.filter, source)?;
            found.present.extend(more.present);
            found.gone.extend(more.gone);
        }
        Ok(found)
    }

    fn look_at_root(&mut self, source: &mut Source) -> Result<Differences, WatchError> {
        let root = self.filter.root.clone();
        self.survey = Survey::of([&root]);
        for folder in &self.survey.folders {
            source.watch(folder)?;
        }
        self.tree.look(&root, &self.filter, source)
    }

    fn batch(&self, found: &Differences) -> Option<Batch> {
        let change = |path: &PathBuf, gone| {
            let relative = self.filter.relative(path)?;
            let mut target = self.target.clone();
            // A root that is a file is itself the target.
            if !relative.as_os_str().is_empty() {
                target.push(relative);
            }
            Some(Changed {
                source: path.clone(),
                target,
                gone,
            })
        };
        let gone = found.gone.iter().filter_map(|path| change(path, true));
        let present = found.present.iter().filter_map(|path| change(path, false));
        let changes: Vec<Changed> = gone.chain(present).collect();
        (!changes.is_empty()).then(|| Batch {
            service: self.service.clone(),
            rule: self.number,
            action: self.action,
            changes,
            exec: self.exec.clone(),
        })
    }
}

fn compile(service: &Service, number: usize, rule: &WatchRule) -> Result<Rule, String> {
    let action =
        Action::of(&rule.action).ok_or_else(|| format!("`{}` is not an action", rule.action))?;
    let given = PathBuf::from(&rule.path);
    // What is below is compared with the paths of events, which have no links in them.
    let root = given.canonicalize().unwrap_or(given);
    let patterns = |list: &[String]| Patterns::new(list.iter().map(String::as_str));
    let docker = service
        .build
        .as_ref()
        .and_then(|build| build.context.as_deref())
        .map(PathBuf::from)
        .and_then(|context| {
            let context = context.canonicalize().ok()?;
            let text = std::fs::read_to_string(context.join(".dockerignore")).ok()?;
            Some((context, text))
        });
    let docker = match docker {
        Some((context, text)) => Some((context, Patterns::of_file(&text)?)),
        None => None,
    };
    Ok(Rule {
        service: service.name.clone(),
        number,
        action,
        target: PathBuf::from(rule.target.as_deref().unwrap_or_default()),
        exec: rule.exec.clone(),
        initial_sync: rule.initial_sync,
        survey: Survey::default(),
        tree: Tree::new(root.clone()),
        filter: Filter {
            root,
            always: Patterns::new(ALWAYS)?,
            ignore: patterns(&rule.ignore)?,
            include: patterns(&rule.include)?,
            docker,
        },
        touched: BTreeSet::new(),
        dirty: BTreeSet::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Build, Develop as Definition};

    fn project(root: &Path, rule: WatchRule) -> Project {
        let service = Service {
            name: "web".into(),
            build: Some(Build {
                context: Some(root.display().to_string()),
                ..Build::default()
            }),
            develop: Some(Definition { watch: vec![rule] }),
            ..Service::default()
        };
        Project {
            services: [("web".to_owned(), service)].into_iter().collect(),
            ..Project::default()
        }
    }

    fn sync(root: &Path) -> WatchRule {
        WatchRule {
            path: root.display().to_string(),
            action: "sync".into(),
            target: Some("/app".into()),
            ignore: vec!["node_modules".into()],
            ..WatchRule::default()
        }
    }

    fn targets(batches: &[Batch]) -> Vec<String> {
        let changes = batches.iter().flat_map(|batch| &batch.changes);
        let text = |change: &Changed| {
            let sign = if change.gone { "-" } else { "+" };
            format!("{sign}{}", change.target.display())
        };
        changes.map(text).collect()
    }

    async fn next(develop: &mut Develop) -> Vec<String> {
        let batches = tokio::time::timeout(Duration::from_secs(10), develop.next());
        targets(&batches.await.expect("changes").unwrap())
    }

    #[tokio::test]
    async fn changes_are_told_in_one_batch_without_what_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for path in ["src", "node_modules/deep", "target", ".git"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::write(root.join(".dockerignore"), "target\n").unwrap();
        std::fs::write(root.join("src/old"), "1").unwrap();
        let (mut develop, errors) = Develop::new(&project(root, sync(root))).unwrap();
        assert!(errors.is_empty() && !develop.is_empty());
        for path in [
            "node_modules/deep/x",
            "target/x",
            ".git/HEAD",
            "src/.main.c.swp",
        ] {
            std::fs::write(root.join(path), "1").unwrap();
        }
        std::fs::create_dir_all(root.join("src/new/deep")).unwrap();
        std::fs::write(root.join("src/new/deep/file"), "1").unwrap();
        std::fs::remove_file(root.join("src/old")).unwrap();
        assert_eq!(
            next(&mut develop).await,
            [
                "-/app/src/old",
                "+/app/src/new",
                "+/app/src/new/deep",
                "+/app/src/new/deep/file"
            ]
        );
        // A folder that came later is watched, too.
        std::fs::write(root.join("src/new/deep/file"), "22").unwrap();
        assert_eq!(next(&mut develop).await, ["+/app/src/new/deep/file"]);
        std::fs::rename(root.join("src/new"), root.join("src/moved")).unwrap();
        assert_eq!(
            next(&mut develop).await,
            [
                "-/app/src/new",
                "+/app/src/moved",
                "+/app/src/moved/deep",
                "+/app/src/moved/deep/file"
            ]
        );
        assert_eq!(
            targets(&develop.missing("web")),
            [
                "-/app/src/new",
                "-/app/src/new/deep",
                "-/app/src/new/deep/file",
                "-/app/src/old",
                "+/app/src/moved",
                "+/app/src/moved/deep",
                "+/app/src/moved/deep/file"
            ]
        );
    }

    #[tokio::test]
    async fn rules_that_change_forget_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["told", "untold", "old", "new"] {
            std::fs::write(root.join(name), "1").unwrap();
        }
        let (mut develop, _) = Develop::new(&project(&root, sync(&root))).unwrap();
        std::fs::write(root.join("told"), "22").unwrap();
        assert_eq!(next(&mut develop).await, ["+/app/told"]);
        std::fs::write(root.join("untold"), "22").unwrap();
        let rule = WatchRule {
            ignore: vec!["old".into()],
            ..sync(&root)
        };
        let (mut later, _) = Develop::new(&project(&root, rule)).unwrap();
        later.resume(develop);
        assert_eq!(next(&mut later).await, ["+/app/untold"]);
        assert_eq!(
            targets(&later.missing("web")),
            ["+/app/told", "+/app/untold"]
        );
    }

    #[tokio::test]
    async fn ignored_folders_are_not_watched_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("node_modules/a/b")).unwrap();
        std::fs::create_dir_all(root.join("src")).unwrap();
        let (develop, _) = Develop::new(&project(root, sync(root))).unwrap();
        assert!(develop.source.is_watched(&root.join("src")));
        assert!(!develop.source.is_watched(&root.join("node_modules")));
        assert!(!develop.source.is_watched(&root.join("node_modules/a")));
    }

    #[tokio::test]
    async fn only_included_files_and_single_files_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let rule = WatchRule {
            include: vec!["*.js".into()],
            initial_sync: true,
            ..sync(&root)
        };
        std::fs::write(root.join("first.js"), "1").unwrap();
        std::fs::write(root.join("first.md"), "1").unwrap();
        let (mut develop, _) = Develop::new(&project(&root, rule)).unwrap();
        assert_eq!(
            targets(&develop.missing("web")),
            ["+/app", "+/app/first.js"]
        );
        std::fs::write(root.join("second.md"), "1").unwrap();
        std::fs::write(root.join("second.js"), "1").unwrap();
        assert_eq!(next(&mut develop).await, ["+/app/second.js"]);

        let file = WatchRule {
            path: root.join("first.js").display().to_string(),
            target: Some("/app/main.js".into()),
            ..sync(&root)
        };
        let (mut develop, _) = Develop::new(&project(&root, file)).unwrap();
        std::fs::write(root.join("new"), "2").unwrap();
        std::fs::rename(root.join("new"), root.join("first.js")).unwrap();
        assert_eq!(next(&mut develop).await, ["+/app/main.js"]);
    }

    #[tokio::test]
    async fn a_root_that_is_removed_and_made_again_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap().join("code");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), "1").unwrap();
        let (mut develop, _) = Develop::new(&project(&root, sync(&root))).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("other"), "1").unwrap();
        let told = next(&mut develop).await;
        assert!(told.contains(&"-/app/file".to_owned()), "{told:?}");
        assert!(told.contains(&"+/app/other".to_owned()), "{told:?}");
        std::fs::write(root.join("third"), "1").unwrap();
        assert_eq!(next(&mut develop).await, ["+/app/third"]);
    }
}
