//! Services that wait for each other.

use std::collections::HashMap;

use super::diagnostic::Problem;
use super::select::Model;
use super::session::Session;
use crate::yaml::{Entry, Node};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    OnPath,
    Done,
}

/// Reports the first cycle of dependencies as its path.
pub(super) fn check(session: &mut Session<'_>, model: &Model) {
    let dependencies = |name: &str| -> Vec<(&str, &Entry)> {
        model
            .root
            .get("services")
            .and_then(|services| services.get(name))
            .map(|service: &Node| service.entries("depends_on").collect())
            .unwrap_or_default()
    };
    let mut marks: HashMap<&str, Mark> = HashMap::new();
    for (start, _) in model.services() {
        if marks.contains_key(start) {
            continue;
        }
        // Not recursive, as a chain may be as long as the project.
        let mut path: Vec<(&str, std::vec::IntoIter<(&str, &Entry)>)> = Vec::new();
        marks.insert(start, Mark::OnPath);
        path.push((start, dependencies(start).into_iter()));
        while let Some((name, rest)) = path.last_mut() {
            let name = *name;
            let Some((dependency, _)) = rest.next() else {
                marks.insert(name, Mark::Done);
                path.pop();
                continue;
            };
            match marks.get(dependency) {
                Some(Mark::Done) => {}
                Some(Mark::OnPath) => {
                    let from = path
                        .iter()
                        .position(|(name, _)| *name == dependency)
                        .unwrap_or_default();
                    let names: Vec<&str> = path[from..]
                        .iter()
                        .map(|(name, _)| *name)
                        .chain([dependency])
                        .collect();
                    let mut problem = Problem::error(format!(
                        "services wait for each other: {}",
                        names.join(" -> ")
                    ));
                    for pair in names.windows(2) {
                        let [waits, dependency] = pair else { continue };
                        let edge = dependencies(waits)
                            .into_iter()
                            .find(|(name, _)| name == dependency);
                        if let Some((_, entry)) = edge {
                            let text = format!("`{waits}` waits for `{dependency}`");
                            problem = problem.label(entry.key, text);
                        }
                    }
                    session.error(problem);
                    return;
                }
                None => {
                    marks.insert(dependency, Mark::OnPath);
                    path.push((dependency, dependencies(dependency).into_iter()));
                }
            }
        }
    }
}
