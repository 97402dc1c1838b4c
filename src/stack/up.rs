//! Bringing a project up.

use super::{Stack, StackError};
use crate::reconcile::plan::UpOptions;
use crate::supervisor::protocol::Request;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be done, and the supervisor was not asked.
    Unchanged,
    Applied,
}

impl Stack {
    /// Makes the world what the project wants.
    pub fn up(&self, options: UpOptions) -> Result<Request, StackError> {
        self.required_project()?;
        let project = Box::new(self.provided_project()?.unwrap_or_default());
        Ok(Request::Up { project, options })
    }
}
