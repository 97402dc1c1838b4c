//! `compose scale`

use clap::Args;

use super::converge::{ConvergeArgs, DependencyArgs, up_options};
use super::perform;
use crate::cli::error::{CommandError, ExitStatus};
use crate::cli::globals::{Context, Selection};

/// Scale services
#[derive(Args, Debug)]
pub(crate) struct ScaleArgs {
    /// Don't start dependencies
    #[arg(long)]
    no_deps: bool,
    /// How many containers each service is to have
    #[arg(value_name = "SERVICE=REPLICAS", required = true)]
    replicas: Vec<String>,
}

pub(crate) fn run(
    context: &mut Context,
    arguments: &ScaleArgs,
) -> Result<ExitStatus, CommandError> {
    let services = arguments
        .replicas
        .iter()
        .map(|text| service(text))
        .collect::<Result<Vec<String>, CommandError>>()?;
    let project = context.load(Selection {
        services: &services,
        without_dependencies: arguments.no_deps,
        with_environment: true,
    })?;
    let converge = ConvergeArgs {
        scale: arguments.replicas.clone(),
        ..ConvergeArgs::default()
    };
    let dependencies = DependencyArgs {
        no_deps: arguments.no_deps,
        ..DependencyArgs::default()
    };
    let options = up_options(
        &context.globals,
        &project,
        &services,
        &converge,
        &dependencies,
    )?;
    let name = project.name.clone();
    let stack = context.stack(Some(project), name);
    perform(&mut context.ui, &stack, "scale", stack.up(options)?)?;
    Ok(ExitStatus::Success)
}

/// The service that `text` scales; refuses what has not Docker's form.
fn service(text: &str) -> Result<String, CommandError> {
    let Some((service, replicas)) = text.split_once('=') else {
        return Err(
            CommandError::usage(format!("invalid scale specifier: {text}"))
                .hint("it has the form `SERVICE=REPLICAS`"),
        );
    };
    if replicas.parse::<u32>().is_err() {
        return Err(CommandError::usage(format!(
            "invalid scale specifier: {text}: `{replicas}` is not a number of replicas"
        )));
    }
    Ok(service.into())
}
