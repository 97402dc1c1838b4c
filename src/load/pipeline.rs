//! The phases in their order.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use indexmap::IndexMap;

use super::diagnostic::{Problem, resolve};
use super::dotenv::Variables;
use super::files::{self, File, Scope};
use super::options::{LoadError, LoadOptions, Loaded, RawProject};
use super::select::Model;
use super::session::{Outcome, Session};
use super::source::Reason;
use super::{bind, checks, discover, environment, grammar, name, normalize, values};
use crate::yaml::{Document, Mapping, Node, Span};

/// Loads a project.
pub fn load(options: &LoadOptions) -> Result<Loaded, LoadError> {
    let mut session = Session::new(options);
    match load_in(&mut session) {
        Ok((project, tree)) => Ok(Loaded {
            inputs: session.inputs,
            project,
            warnings: resolve(session.warnings, &session.sources),
            sources: session.sources,
            tree,
            trace: session.trace,
        }),
        Err(_) => Err(session.into_error()),
    }
}

/// The merged tree before texts are given types, as `config --no-interpolate` prints it.
pub fn load_raw(options: &LoadOptions) -> Result<RawProject, LoadError> {
    let mut session = Session::new(options);
    let tree = tree(&mut session).and_then(|tree| {
        session.checkpoint()?;
        Ok(tree)
    });
    match tree {
        Ok(tree) => Ok(RawProject { tree: tree.root }),
        Err(_) => Err(session.into_error()),
    }
}

/// The environment of the process with the files of variables of the start directory, for commands that
/// read `COMPOSE_*` and need no project.
pub fn project_environment(options: &LoadOptions) -> Result<IndexMap<String, String>, LoadError> {
    let mut session = Session::new(options);
    match first_environment(&mut session) {
        Ok(first) => Ok(first.variables),
        Err(_) => Err(session.into_error()),
    }
}

/// The name of the project, for commands that need no more: as given, else of the files, if any.
pub fn project_name(options: &LoadOptions) -> Result<String, LoadError> {
    let mut session = Session::new(options);
    name_in(&mut session).map_err(|_| session.into_error())
}

fn name_in(session: &mut Session<'_>) -> Outcome<String> {
    let variables = environment::of_process(session);
    if let Some(name) = name::given(session, &variables)? {
        return Ok(name);
    }
    let start = prepare(session)?;
    Ok(start.name)
}

/// What is known before the files are merged.
struct Start {
    environment: Variables,
    env_files: Vec<PathBuf>,
    files: Vec<PathBuf>,
    documents: Vec<Vec<Document>>,
    directory: PathBuf,
    name: String,
}

/// Variables as they are before the files of the project are known.
struct FirstEnvironment {
    variables: Variables,
    files: Vec<(PathBuf, Span)>,
    directory: PathBuf,
}

fn first_environment(session: &mut Session<'_>) -> Outcome<FirstEnvironment> {
    let mut variables = environment::of_process(session);
    let given = session.options.files.clone();
    let directory = discover::directory(session, &given);
    let files = environment::files(session, &variables, &directory)?;
    environment::add_files(session, &mut variables, &files)?;
    environment::drop_disabled(session, &mut variables);
    Ok(FirstEnvironment {
        variables,
        files,
        directory,
    })
}

fn prepare(session: &mut Session<'_>) -> Outcome<Start> {
    let FirstEnvironment {
        variables: mut environment,
        files: mut env_files,
        directory: first_directory,
    } = first_environment(session)?;
    let files = discover::files(session, &environment)?;
    // The files may be elsewhere than the start, with a `.env` beside them.
    let directory = discover::directory(session, &files);
    if directory != first_directory {
        let more = environment::files(session, &environment, &directory)?;
        if more != env_files && !more.is_empty() {
            environment::add_files(session, &mut environment, &more)?;
            env_files = more;
        }
    }

    let given_name = name::given(session, &environment)?;
    let mut documents = Vec::with_capacity(files.len());
    for (index, file) in files.iter().enumerate() {
        let reason = if index == 0 {
            Reason::Given
        } else {
            Reason::Override
        };
        let id = if file.as_os_str() == discover::STDIN {
            let text = session.options.stdin.clone().unwrap_or_default();
            session.add(
                text.into_bytes(),
                "standard input".as_ref(),
                reason,
                Span::NONE,
            )?
        } else {
            let display = session.display(file);
            session.read(file, &display, reason, Span::NONE)?
        };
        // Each file is read, so that the errors of all are found.
        documents.push(session.parse(id).unwrap_or_default());
    }
    session.checkpoint()?;
    let name = match given_name {
        Some(name) => name,
        None => name::from_files(session, &documents, &directory, &environment)?,
    };
    if !session.options.interpolate {
        // What is left as it was written does not take values from outside either.
        environment.clear();
    }
    environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    Ok(Start {
        environment,
        env_files: env_files.into_iter().map(|(file, _)| file).collect(),
        files,
        documents,
        directory,
        name,
    })
}

/// A canonical tree and what it was made from.
struct Tree {
    root: Node,
    environment: Rc<Variables>,
    env_files: Vec<PathBuf>,
    files: Vec<PathBuf>,
    directory: PathBuf,
    name: String,
}

fn tree(session: &mut Session<'_>) -> Outcome<Tree> {
    let start = prepare(session)?;
    let environment = Rc::new(start.environment);
    let scope = Scope {
        directory: start.directory.clone(),
        prefix: start.directory.clone(),
        environment: Rc::clone(&environment),
        included: Vec::new(),
        resolve_paths: session.options.resolve_paths,
    };
    let files = start
        .files
        .iter()
        .zip(start.documents)
        .map(|(path, documents)| File {
            path: path.clone(),
            documents,
        })
        .collect();
    let mut root = files::load(session, files, &scope);
    if root.as_mapping().is_none_or(Mapping::is_empty) {
        session.checkpoint()?;
        let paths: Vec<String> = start
            .files
            .iter()
            .map(|path| format!("`{}`", path.display()))
            .collect();
        let empty = match paths.as_slice() {
            [] => "the Compose file is empty".to_owned(),
            [path] => format!("the Compose file {path} is empty"),
            paths => format!("the Compose files {} are empty", paths.join(", ")),
        };
        return session.fail(Problem::error(empty).expected("a section `services:`"));
    }
    if session.options.normalize {
        normalize::normalize(&mut root, &start.name, &environment);
    }
    Ok(Tree {
        root,
        environment,
        env_files: start.env_files,
        files: start.files,
        directory: start.directory,
        name: start.name,
    })
}

fn load_in(session: &mut Session<'_>) -> Outcome<(crate::model::Project, Node)> {
    let mut tree = tree(session)?;
    values::document(session, &mut tree.root);
    if session.options.check_consistency {
        grammar::check(session, &tree.root);
    }

    let options = session.options;
    let profiles = if options.profiles.is_empty() {
        tree.environment
            .get("COMPOSE_PROFILES")
            .map_or("", String::as_str)
            .split(',')
            // Without a variable this is the empty profile, as a service may have it.
            .map(|profile| profile.trim().to_owned())
            .collect()
    } else {
        options.profiles.clone()
    };
    let mut model = Model::new(tree.root, profiles);
    model.check_profiles(session);
    if options.check_consistency {
        checks::check(session, &model);
    }
    session.checkpoint()?;
    if options.read_all_env_files {
        model.read_files(session, &tree.environment, options.resolve_env)?;
    }
    model.enable(&options.services);
    model.select(session, &options.services, options.with_dependencies)?;
    if !options.all_resources {
        model.prune();
    }
    if !options.read_all_env_files || !options.services.is_empty() {
        model.read_files(session, &tree.environment, options.resolve_env)?;
    }

    let runtime = match &options.runtime {
        Some(runtime) => Some(runtime.clone()),
        None => tree.environment.get("COMPOSE_RUNTIME").cloned(),
    };
    let compatibility = tree.environment.get("COMPOSE_COMPATIBILITY");
    let compatibility =
        options.compatibility || compatibility.is_some_and(|value| environment::means_yes(value));
    let environment = Rc::try_unwrap(tree.environment).unwrap_or_else(|shared| (*shared).clone());
    let project = bind::project(
        &model,
        bind::Outer {
            name: tree.name,
            working_dir: tree.directory,
            files: tree.files,
            env_files: tree.env_files,
            runtime,
            compatibility,
            environment,
        },
        &session.contents,
        &session.sources,
    );
    let configs = project.configs.values().map(|config| &config.file);
    let secrets = project.secrets.values().map(|secret| &secret.file);
    for file in configs.chain(secrets).flatten() {
        session.depend_on(Path::new(file));
    }
    // What was read into a service is not printed beside the result.
    let services = model
        .root
        .get_mut("services")
        .and_then(Node::as_mapping_mut);
    for (_, entry) in services.into_iter().flat_map(Mapping::iter_mut) {
        if let Some(service) = entry.value.as_mapping_mut() {
            service.remove("label_file");
            if options.resolve_env {
                service.remove("env_file");
            }
        }
    }
    Ok((project, model.root))
}
