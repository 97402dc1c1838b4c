//! Bringing a project up.

use super::{Stack, StackError};
use crate::reconcile::plan::{Plan, UpOptions};
use crate::supervisor::protocol::{Reply, Request};

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be done, and the supervisor was not asked.
    Unchanged,
    Applied,
}

impl Stack {
    /// Makes the world what the project wants. Where it is that already, no supervisor is asked.
    pub async fn up(
        &self,
        options: UpOptions,
        mut on_reply: impl FnMut(Reply),
    ) -> Result<Outcome, StackError> {
        let observed = self.observe().await?;
        let plan = self.plan_up_from(&observed, &options).await?;
        if plan.is_empty() {
            tell_unchanged(&plan, &mut on_reply);
            self.revive(&observed).await;
            return Ok(Outcome::Unchanged);
        }
        self.apply_up(options, on_reply).await?;
        Ok(Outcome::Applied)
    }

    /// Has the supervisor plan and apply, without a look of our own.
    pub async fn apply_up(
        &self,
        options: UpOptions,
        on_reply: impl FnMut(Reply),
    ) -> Result<(), StackError> {
        let project = Box::new(self.required_project()?.clone());
        self.request(Request::Up { project, options }, on_reply)
            .await
    }
}

/// Tells what a supervisor would have told.
fn tell_unchanged(plan: &Plan, on_reply: &mut impl FnMut(Reply)) {
    for text in &plan.warnings {
        on_reply(Reply::Warning { text: text.clone() });
    }
    for progress in super::rehearse(plan) {
        on_reply(Reply::Progress(progress));
    }
}
