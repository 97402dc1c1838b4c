//! Pulling and pushing images: no business of the supervisor, as no container changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Stack, StackError};
use crate::image::{
    ImageError, Images, InvalidPolicy, PullPolicy, Registry, RegistrySettings, Tell, is_latest,
};
use crate::model::{Project, Service};
use crate::reconcile::failure::Failure;
use crate::reconcile::prepare::PrepareError;
use crate::reconcile::pulls::{dependent_images, failure};
use crate::supervisor::protocol::{Progress, ProgressStatus, Reply, Resource};

/// Time after which a lease ends even if we do not; a pull over a slow line must fit in.
const LEASE: Duration = Duration::from_hours(24);
/// On the lease of a pull: the project. Not the label of the supervisor's leases, which the next supervisor ends.
const PULL_LABEL: &str = "containerd-compose/pull";

/// What is asked of `pull`.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// `missing` or `always`: goes before the policies of the services.
    pub policy: Option<String>,
    /// Images that can be built are left alone.
    pub ignore_buildable: bool,
    /// What cannot be pulled is only told.
    pub ignore_failures: bool,
    /// Layers are not told of.
    pub quiet: bool,
    /// Only look: nothing is fetched.
    pub dry_run: bool,
}

/// What is asked of `push`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushRequest {
    /// What cannot be pushed is only told.
    pub ignore_failures: bool,
    /// Nothing is sent.
    pub dry_run: bool,
}

/// What `pull` does with the image of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Pull,
    Skip(&'static str),
}

/// One image that is pulled.
#[derive(Clone, Debug)]
struct Order {
    service: String,
    reference: String,
    platform: Option<String>,
    is_buildable: bool,
}

/// What became of the images.
#[derive(Debug, Default)]
pub struct PullOutcome {
    /// Services whose image must be built, as it cannot be pulled.
    pub to_build: Vec<String>,
}

impl Stack {
    /// Pulls the images of all services of the project. `cancel` ends it soon; what was fetched is kept for a day.
    pub async fn pull(
        &self,
        request: &PullRequest,
        replies: &UnboundedSender<Reply>,
        cancel: &CancellationToken,
    ) -> Result<PullOutcome, StackError> {
        let project = self.required_project()?;
        let containers = self.containers().await?;
        let images = &containers.images;
        let orders = orders(project, images, request, replies).await?;
        if orders.is_empty() {
            return Ok(PullOutcome::default());
        }
        let lease = format!("compose-{}-{}", self.name(), crate::random::random_hex(8));
        let labels = BTreeMap::from([(PULL_LABEL.to_owned(), self.name().to_owned())]);
        containers
            .engine
            .create_lease(&lease, &labels, LEASE)
            .await?;
        let registry = self.registry();
        let mut pulls = JoinSet::new();
        for order in orders {
            let pull = pull_one(
                images.clone(),
                Arc::clone(&registry),
                order,
                lease.clone(),
                replies.clone(),
                request.clone(),
            );
            pulls.spawn(pull);
        }
        let mut outcome = PullOutcome::default();
        let mut failures = Vec::new();
        loop {
            let joined = tokio::select! {
                // Cancel-safe by contract.
                joined = pulls.join_next() => joined,
                () = cancel.cancelled() => {
                    pulls.shutdown().await;
                    break;
                }
            };
            let Some(Ok((order, pulled))) = joined else {
                break;
            };
            let Err(error) = pulled else {
                continue;
            };
            if order.is_buildable {
                outcome.to_build.push(order.service.clone());
            }
            let failure = failure(project, &order.service, &order.reference, &error);
            if order.is_buildable || request.ignore_failures {
                pass_over(replies, &order.reference, failure);
            } else {
                failures.push(failure);
            }
        }
        containers.engine.delete_lease(&lease).await?;
        if failures.is_empty() {
            outcome.to_build.sort();
            Ok(outcome)
        } else {
            Err(StackError::Failed(failures))
        }
    }

    /// Pushes the images of services that are built, under all of their tags.
    pub async fn push(
        &self,
        request: PushRequest,
        replies: &UnboundedSender<Reply>,
        cancel: &CancellationToken,
    ) -> Result<(), StackError> {
        let project = self.required_project()?;
        let images = &self.containers().await?.images;
        let registry = self.registry();
        let mut orders: IndexMap<String, Order> = IndexMap::new();
        for service in project.services.values() {
            let (Some(image), Some(build)) = (&service.image, &service.build) else {
                skip(replies, Resource::Service, &service.name, "");
                continue;
            };
            for tag in std::iter::once(image).chain(&build.tags) {
                orders
                    .entry(tag.clone())
                    .or_insert_with(|| order(project, service, tag, false));
            }
        }
        let mut pushes = JoinSet::new();
        for order in orders.into_values() {
            let (images, registry) = (images.clone(), Arc::clone(&registry));
            let replies = replies.clone();
            pushes.spawn(async move {
                say(&replies, &order.reference, ProgressStatus::Pushing);
                let tell = teller(&replies, false);
                let platform = order.platform.as_deref();
                let pushed = if request.dry_run {
                    Ok(())
                } else {
                    let push = images.push(&registry, &order.reference, platform, &tell);
                    push.await
                };
                if pushed.is_ok() {
                    say(&replies, &order.reference, ProgressStatus::Pushed);
                }
                (order, pushed)
            });
        }
        let mut failures = Vec::new();
        loop {
            let joined = tokio::select! {
                // Cancel-safe by contract.
                joined = pushes.join_next() => joined,
                () = cancel.cancelled() => {
                    pushes.shutdown().await;
                    break;
                }
            };
            let Some(Ok((order, pushed))) = joined else {
                break;
            };
            let Err(error) = pushed else {
                continue;
            };
            let failure = failure(project, &order.service, &order.reference, &error);
            if request.ignore_failures {
                pass_over(replies, &order.reference, failure);
            } else {
                failures.push(failure);
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(StackError::Failed(failures))
        }
    }

    /// Each of `references` by the digest that it has in its registry now: that of the index where there is one. What is
    /// no name of an image in a registry is left out.
    pub async fn pinned_images(
        settings: RegistrySettings,
        references: Vec<String>,
    ) -> Result<IndexMap<String, String>, StackError> {
        let registry = Arc::new(Registry::new(settings));
        let mut asked = JoinSet::new();
        for reference in references {
            let registry = Arc::clone(&registry);
            if Images::is_archive(&reference) {
                continue;
            }
            asked.spawn(async move {
                let pinned = Images::pinned(&registry, &reference).await;
                (reference, pinned)
            });
        }
        let mut pins = IndexMap::new();
        let mut failures = Vec::new();
        while let Some(Ok((reference, pinned))) = asked.join_next().await {
            match pinned {
                Ok(pinned) => {
                    pins.insert(reference, pinned);
                }
                Err(error) => failures.push(Failure {
                    hints: error.hints(),
                    ..Failure::from_error(format!("image {reference}"), &error)
                }),
            }
        }
        if failures.is_empty() {
            Ok(pins)
        } else {
            failures.sort_by(|a, b| a.resource.cmp(&b.resource));
            Err(StackError::Failed(failures))
        }
    }
}

/// What is to be pulled, each image once; says what is not.
async fn orders(
    project: &Project,
    images: &Images,
    request: &PullRequest,
    replies: &UnboundedSender<Reply>,
) -> Result<Vec<Order>, StackError> {
    let mut orders: IndexMap<(String, Option<String>), Order> = IndexMap::new();
    for service in project.services.values() {
        let mut wanted = Vec::new();
        match &service.image {
            Some(image) if Images::is_archive(image) => {
                skip(replies, Resource::Image, image, "It is an archive");
            }
            Some(image) => {
                let policy = request.policy.as_ref().or(service.pull_policy.as_ref());
                wanted.push((image.clone(), policy.cloned(), service.build.is_some()));
            }
            None if service.provider.is_none() => {
                skip(
                    replies,
                    Resource::Service,
                    &service.name,
                    "No image to be pulled",
                );
            }
            None => {}
        }
        let dependent = dependent_images(project, service, None);
        wanted.extend(
            dependent
                .into_iter()
                .map(|(image, policy)| (image, policy, false)),
        );
        for (image, policy, is_buildable) in wanted {
            let order = order(project, service, &image, is_buildable);
            let key = (image.clone(), order.platform.clone());
            if orders.contains_key(&key) {
                continue;
            }
            let is_present = async || {
                let found = images.find(&image, &project.working_dir, key.1.as_deref());
                match found.await {
                    Err(ImageError::NoPlatform { .. }) => Ok(false),
                    found => found.map(|image| image.is_some()),
                }
            };
            let decision = match policy.as_deref().unwrap_or_default() {
                "" => Decision::Pull,
                policy => {
                    let policy = parse(&service.name, policy)?;
                    let present = policy == PullPolicy::Missing && is_present().await?;
                    decide(policy, present, is_latest(&image))
                }
            };
            match decision {
                Decision::Skip(why) => skip(replies, Resource::Image, &image, why),
                Decision::Pull if is_buildable && request.ignore_buildable => {
                    skip(replies, Resource::Image, &image, "Image can be built");
                }
                Decision::Pull => {
                    orders.insert(key, order);
                }
            }
        }
    }
    Ok(orders.into_values().collect())
}

fn parse(service: &str, policy: &str) -> Result<PullPolicy, StackError> {
    let invalid = |source: InvalidPolicy| PrepareError::Policy {
        service: service.into(),
        source,
    };
    Ok(PullPolicy::parse(policy).map_err(invalid)?)
}

/// As Docker decides: somebody asked for it, so a window that has not passed yet does not count, and `latest` moves.
fn decide(policy: PullPolicy, present: bool, is_latest: bool) -> Decision {
    match policy {
        PullPolicy::Missing if present && !is_latest => {
            Decision::Skip("Image is already present locally")
        }
        PullPolicy::Always | PullPolicy::Missing | PullPolicy::Every(_) => Decision::Pull,
        PullPolicy::Never => Decision::Skip("pull_policy is never"),
        PullPolicy::Build => Decision::Skip("pull_policy is build"),
    }
}

fn order(project: &Project, service: &Service, image: &str, is_buildable: bool) -> Order {
    Order {
        service: service.name.clone(),
        reference: image.to_owned(),
        platform: project.platform(service).map(str::to_owned),
        is_buildable,
    }
}

async fn pull_one(
    images: Images,
    registry: Arc<Registry>,
    order: Order,
    lease: String,
    replies: UnboundedSender<Reply>,
    request: PullRequest,
) -> (Order, Result<(), ImageError>) {
    say(&replies, &order.reference, ProgressStatus::Pulling);
    let work = async {
        let platform = order.platform.as_deref();
        let looked_up = images
            .look_up(&registry, &order.reference, platform)
            .await?;
        if !request.dry_run {
            let tell = teller(&replies, request.quiet);
            images
                .pull(&registry, &order.reference, &looked_up, &lease, &tell)
                .await?;
        }
        Ok(())
    };
    let pulled = work.await;
    if pulled.is_ok() {
        say(&replies, &order.reference, ProgressStatus::Pulled);
    }
    (order, pulled)
}

fn teller(replies: &UnboundedSender<Reply>, quiet: bool) -> Tell {
    let replies = replies.clone();
    Arc::new(move |layer| {
        if !quiet {
            // Nobody may listen any more.
            replies.send(Reply::Layer(layer)).ok();
        }
    })
}

fn say(replies: &UnboundedSender<Reply>, image: &str, status: ProgressStatus) {
    let progress = Progress {
        kind: Resource::Image,
        name: image.into(),
        status,
        detail: None,
    };
    replies.send(Reply::Progress(progress)).ok();
}

fn skip(replies: &UnboundedSender<Reply>, kind: Resource, name: &str, why: &str) {
    let progress = Progress {
        kind,
        name: name.into(),
        status: ProgressStatus::Skipped,
        detail: Some(why.to_owned()).filter(|why| !why.is_empty()),
    };
    replies.send(Reply::Progress(progress)).ok();
}

/// Tells of a failure that is none of the command's.
fn pass_over(replies: &UnboundedSender<Reply>, reference: &str, failure: Failure) {
    let mut words = vec![failure.message];
    words.extend(failure.causes);
    let text = words.join(": ");
    say(replies, reference, ProgressStatus::Skipped);
    // Nobody may listen any more.
    replies.send(Reply::Warning { text }).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_pull_decides_as_docker_does() {
        let decide = |policy: &str, present, latest| {
            decide(PullPolicy::parse(policy).unwrap(), present, latest)
        };
        assert_eq!(decide("missing", false, false), Decision::Pull);
        assert!(matches!(decide("missing", true, false), Decision::Skip(_)));
        assert_eq!(decide("missing", true, true), Decision::Pull);
        assert_eq!(decide("daily", true, false), Decision::Pull);
        assert_eq!(decide("always", true, false), Decision::Pull);
        assert!(matches!(decide("never", false, true), Decision::Skip(_)));
        assert!(matches!(decide("build", false, true), Decision::Skip(_)));
    }
}
