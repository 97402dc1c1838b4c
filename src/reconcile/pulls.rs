//! Which images of a project must be looked up in their registries before it can be planned, and what they are there.

use std::sync::Arc;

use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::Value;
use tokio::task::JoinSet;

use super::contents::contents;
use super::desired::{DesiredState, Facts, desired};
use super::plan::Reason;
use super::prepare::PrepareError;
use crate::image::{Cause, Image, ImageError, Images, PullPolicy, Registry, Remote};
use crate::model::{MountKind, Project, Service, config_hash};
use crate::reconcile::failure::Failure;

/// An image that is brought here before anything is made from it.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredPull {
    /// Services that want it.
    pub services: Vec<String>,
    pub reference: String,
    pub platform: Option<String>,
    /// Of the platform's manifest in the registry.
    pub digest: String,
    /// Empty: it is here already, and as the registry has it.
    pub reasons: Vec<Reason>,
}

/// Whose images may be pulled, and when.
#[derive(Clone, Copy, Debug)]
pub struct PullSelection<'a> {
    /// Services that are made or updated.
    pub services: &'a [String],
    /// `--pull`, which goes before each service's own policy.
    pub policy: Option<&'a str>,
    pub now: Timestamp,
}

/// Reference and platform.
type Key = (String, Option<String>);

/// An image whose registry is to be asked.
#[derive(Clone, Debug)]
struct Need {
    /// Never empty.
    services: Vec<String>,
    key: Key,
    cause: Cause,
    /// What asks for it, as `pull_policy: daily`.
    by: String,
    /// It can be built instead.
    is_buildable: bool,
}

/// The images of a project as they are here.
#[derive(Debug, Default)]
pub struct Survey {
    /// By service.
    images: IndexMap<String, Option<Image>>,
    found: IndexMap<Key, Option<Image>>,
    needs: Vec<Need>,
    pulls: Vec<DesiredPull>,
    warnings: Vec<String>,
}

impl Survey {
    /// Looks at this host only. Without `pull` no image needs to be pulled.
    pub async fn new(
        images: &Images,
        project: &Project,
        pull: Option<PullSelection<'_>>,
    ) -> Result<Self, PrepareError> {
        let mut survey = Self::default();
        for service in project
            .services
            .values()
            .filter(|service| service.provider.is_none())
        {
            let reference = project.image_reference(service);
            let key = (reference, project.platform(service).map(str::to_owned));
            let image = survey.find(images, project, &key).await?;
            survey.images.insert(service.name.clone(), image.clone());
            let Some(pull) = pull.filter(|pull| pull.services.contains(&service.name)) else {
                continue;
            };
            if service.image.is_some() {
                survey.consider(images, project, service, key, pull).await?;
            }
            for (reference, policy) in dependent_images(project, service, pull.policy) {
                let key = (reference, project.platform(service).map(str::to_owned));
                survey.find(images, project, &key).await?;
                let dependent = Service {
                    name: service.name.clone(),
                    pull_policy: policy,
                    ..Service::default()
                };
                let pull = PullSelection {
                    policy: None,
                    ..pull
                };
                survey
                    .consider(images, project, &dependent, key, pull)
                    .await?;
            }
        }
        Ok(survey)
    }

    async fn find(
        &mut self,
        images: &Images,
        project: &Project,
        key: &Key,
    ) -> Result<Option<Image>, PrepareError> {
        if let Some(known) = self.found.get(key) {
            return Ok(known.clone());
        }
        let image = images
            .find(&key.0, &project.working_dir, key.1.as_deref())
            .await;
        let image = match image {
            Ok(image) => image,
            // What is here is for another platform; the registry may have ours.
            Err(ImageError::NoPlatform { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        self.found.insert(key.clone(), image.clone());
        Ok(image)
    }

    async fn consider(
        &mut self,
        images: &Images,
        project: &Project,
        service: &Service,
        key: Key,
        pull: PullSelection<'_>,
    ) -> Result<(), PrepareError> {
        if Images::is_archive(&key.0) {
            return Ok(());
        }
        if let Some(known) = self.needs.iter_mut().find(|need| need.key == key) {
            known.services.push(service.name.clone());
            return Ok(());
        }
        let own = service.pull_policy.as_deref().unwrap_or_default();
        let text = pull.policy.unwrap_or(own);
        let policy = PullPolicy::parse(text).map_err(|error| PrepareError::Policy {
            service: service.name.clone(),
            source: error,
        })?;
        let pulled = match policy {
            PullPolicy::Every(_) => images.pulled_at(&key.0).await?,
            _ => None,
        };
        let present = self.found.get(&key).is_some_and(Option::is_some);
        if let Some(cause) = policy.cause(present, pulled, pull.now) {
            let by = match pull.policy {
                Some(policy) => format!("--pull {policy}"),
                None => format!("pull_policy: {text}"),
            };
            self.needs.push(Need {
                services: vec![service.name.clone()],
                is_buildable: is_buildable(project, service, &key.0),
                key,
                cause,
                by,
            });
        }
        Ok(())
    }

    /// Whether the plan depends on what registries say.
    pub fn asks_registries(&self) -> bool {
        !self.needs.is_empty()
    }

    /// Asks the registries, all at once. Changes nothing.
    pub async fn look_up(
        &mut self,
        images: &Images,
        registry: &Arc<Registry>,
        project: &Project,
    ) -> Result<(), PrepareError> {
        let mut asked = JoinSet::new();
        for (number, need) in self.needs.iter().enumerate() {
            let (images, registry) = (images.clone(), Arc::clone(registry));
            let (reference, platform) = need.key.clone();
            asked.spawn(async move {
                let remote = images
                    .look_up(&registry, &reference, platform.as_deref())
                    .await;
                (number, remote)
            });
        }
        let mut answers: Vec<_> = Vec::with_capacity(self.needs.len());
        while let Some(answer) = asked.join_next().await {
            answers.push(answer.map_err(|error| {
                let failure = Failure::new("", format!("a look-up ended early: {error}"));
                PrepareError::Pull(vec![failure])
            })?);
        }
        answers.sort_by_key(|(number, _)| *number);
        let mut failures = Vec::new();
        for (number, answer) in answers {
            let need = &self.needs[number];
            match answer {
                Ok(remote) => {
                    let old = self.found.get(&need.key).cloned().flatten();
                    self.pulls.push(desired_pull(need, &remote, old.as_ref()));
                    self.found
                        .insert(need.key.clone(), Some(remote.image.clone()));
                }
                Err(error) if need.is_buildable => self.warnings.push(format!(
                    "image {} cannot be pulled: {}",
                    need.key.0,
                    chain(&error)
                )),
                Err(error) => {
                    let service = need.services.first().map_or("", String::as_str);
                    failures.push(failure(project, service, &need.key.0, &error));
                }
            }
        }
        if !failures.is_empty() {
            return Err(PrepareError::Pull(failures));
        }
        for (name, image) in &mut self.images {
            let service = &project.services[name];
            let key = (
                project.image_reference(service),
                project.platform(service).map(str::to_owned),
            );
            if let Some(found) = self.found.get(&key) {
                image.clone_from(found);
            }
        }
        Ok(())
    }

    /// What the project wants, given these images.
    pub fn desired(self, project: &Project) -> Result<DesiredState, PrepareError> {
        let contents = contents(project)?;
        let facts = Facts {
            images: &self.images,
            contents: &contents,
            config_hash,
        };
        Ok(DesiredState {
            pulls: self.pulls,
            warnings: self.warnings,
            ..desired(project, &facts)
        })
    }
}

fn desired_pull(need: &Need, remote: &Remote, old: Option<&Image>) -> DesiredPull {
    let new = &remote.image.digest;
    let mut reasons = Vec::new();
    match (old, need.cause) {
        (None, _) => reasons.push(Reason::Missing),
        (Some(old), cause) => {
            let differs = old.digest != *new;
            if differs {
                reasons.push(Reason::Changed {
                    path: "digest".into(),
                    old: Some(Value::from(old.digest.clone())),
                    new: Some(Value::from(new.clone())),
                });
            }
            if differs || cause == Cause::Due || !remote.is_here() {
                reasons.push(Reason::Requested {
                    by: need.by.clone(),
                });
            }
        }
    }
    DesiredPull {
        services: need.services.clone(),
        reference: need.key.0.clone(),
        platform: need.key.1.clone(),
        digest: new.clone(),
        reasons,
    }
}

/// Images that a service needs beside its own, with the policy for each: those of mounts and of `pre_start` hooks.
pub(crate) fn dependent_images(
    project: &Project,
    service: &Service,
    asked: Option<&str>,
) -> Vec<(String, Option<String>)> {
    let mounts = service
        .volumes
        .iter()
        .filter(|mount| mount.kind == MountKind::Image)
        .filter_map(|mount| mount.source.clone())
        // That of another service comes with it.
        .filter(|source| !project.services.contains_key(source))
        .map(|source| (source, None));
    // They cannot be built: what is not to be pulled is pulled if it is missing.
    let policy = asked.or(service.pull_policy.as_deref());
    let policy = policy.filter(|policy| *policy != "build");
    let hooks = service
        .pre_start
        .iter()
        .filter_map(|hook| hook.image.clone())
        .map(|image| (image, policy.map(str::to_owned)));
    mounts.chain(hooks).collect()
}

/// Whether a service of the project builds the image.
fn is_buildable(project: &Project, service: &Service, reference: &str) -> bool {
    let builds =
        |other: &Service| other.build.is_some() && other.image.as_deref() == Some(reference);
    service.build.is_some() || project.services.values().any(builds)
}

/// A failure to pull `reference`, with the place in the file that names it.
pub fn failure(project: &Project, service: &str, reference: &str, error: &ImageError) -> Failure {
    let origin = project
        .provenance
        .origin(&format!("services.{service}.image"));
    let place = origin.map_or_else(String::new, |origin| format!(" ({origin})"));
    let resource = format!("image {reference}");
    let failure = Failure::from_error(resource.clone(), error);
    // Named once is enough.
    let message = failure
        .message
        .replace(&format!("image `{reference}`"), &resource);
    Failure {
        message: format!("{message}, wanted by service `{service}`{place}"),
        hints: error.hints(),
        ..failure
    }
}

/// An error and its causes in one line.
fn chain(error: &ImageError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |it| it.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Hook, Mount};

    #[test]
    fn images_of_mounts_and_hooks_are_wanted_too() {
        let hook = Hook {
            image: Some("tool".into()),
            ..Hook::default()
        };
        let mount = |source: &str| Mount {
            kind: MountKind::Image,
            source: Some(source.into()),
            ..Mount::default()
        };
        let service = Service {
            pull_policy: Some("build".into()),
            volumes: vec![mount("data"), mount("web")],
            pre_start: vec![hook],
            ..Service::default()
        };
        let project = Project {
            services: [("web".to_owned(), Service::default())]
                .into_iter()
                .collect(),
            ..Project::default()
        };
        let wanted = |asked| dependent_images(&project, &service, asked);
        let pair = |name: &str, policy: Option<&str>| (name.to_owned(), policy.map(str::to_owned));
        assert_eq!(wanted(None), [pair("data", None), pair("tool", None)]);
        let never = wanted(Some("never"));
        assert_eq!(never, [pair("data", None), pair("tool", Some("never"))]);
    }
}
