//! The images that a project names, and the same by digest.

use indexmap::IndexMap;

use super::options::{Loaded, RawProject};
use super::render;
use crate::yaml::{self, Mapping, Node, Span};

impl Loaded {
    /// All images that services, their hooks and their mounts name.
    pub fn image_references(&mut self) -> Vec<String> {
        references(&mut self.tree)
    }

    /// Replaces the names of images.
    pub fn pin_images(&mut self, pins: &IndexMap<String, String>) {
        pin(&mut self.tree, pins);
    }

    /// An override file that has nothing but the images, in YAML.
    pub fn images_to_yaml(&self) -> String {
        yaml::to_yaml(&render::plain(
            &images_only(&self.tree),
            render::Format::Yaml,
        ))
    }

    /// An override file that has nothing but the images, in JSON.
    pub fn images_to_json(&self) -> String {
        yaml::to_json(&render::plain(
            &images_only(&self.tree),
            render::Format::Json,
        ))
    }

    /// Services with hooks whose images an override file cannot name: hooks of several files are added to each other.
    pub fn services_with_hook_images(&self) -> Vec<&str> {
        let services = self.project.services.values();
        services
            .filter(|service| service.pre_start.iter().any(|hook| hook.image.is_some()))
            .map(|service| service.name.as_str())
            .collect()
    }
}

impl RawProject {
    /// As [`Loaded::image_references`].
    pub fn image_references(&mut self) -> Vec<String> {
        references(&mut self.tree)
    }

    /// As [`Loaded::pin_images`].
    pub fn pin_images(&mut self, pins: &IndexMap<String, String>) {
        pin(&mut self.tree, pins);
    }

    /// Leaves out all but the images.
    pub fn keep_images(&mut self) {
        self.tree = images_only(&self.tree);
    }
}

fn references(tree: &mut Node) -> Vec<String> {
    let mut found = Vec::new();
    each_image(tree, &mut |node| {
        if let Some(text) = node.as_str()
            && !text.is_empty()
            && !found.iter().any(|known| known == text)
        {
            found.push(text.to_owned());
        }
    });
    found
}

fn pin(tree: &mut Node, pins: &IndexMap<String, String>) {
    each_image(tree, &mut |node| {
        if let Some(pinned) = node.as_str().and_then(|text| pins.get(text)) {
            *node = Node::string(pinned, node.span);
        }
    });
}

/// Shows every name of an image to `see`.
fn each_image(tree: &mut Node, see: &mut dyn FnMut(&mut Node)) {
    let names: Vec<String> = tree
        .entries("services")
        .map(|(name, _)| name.to_owned())
        .collect();
    let Some(services) = tree.get_mut("services") else {
        return;
    };
    for name in &names {
        let Some(service) = services.get_mut(name) else {
            continue;
        };
        if let Some(image) = service.get_mut("image") {
            see(image);
        }
        let hooks = service.get_mut("pre_start").and_then(Node::as_sequence_mut);
        for hook in hooks.into_iter().flatten() {
            if let Some(image) = hook.get_mut("image") {
                see(image);
            }
        }
        let mounts = service.get_mut("volumes").and_then(Node::as_sequence_mut);
        for mount in mounts.into_iter().flatten().filter(|mount| is_image(mount)) {
            let source = mount.get_mut("source");
            // A service stands for its image.
            let source = source.filter(|source| {
                let text = source.as_str();
                !names.iter().any(|name| Some(name.as_str()) == text)
            });
            if let Some(source) = source {
                see(source);
            }
        }
    }
}

fn is_image(mount: &Node) -> bool {
    mount.text("type") == Some("image")
}

fn images_only(tree: &Node) -> Node {
    let mut services = Mapping::new();
    for (name, service) in tree.entries("services") {
        let mut kept = Mapping::new();
        if let Some(image) = service.value.get("image") {
            kept.set("image", image.clone());
        }
        let mounts = service.value.items("volumes").iter();
        let mounts: Vec<Node> = mounts.filter(|mount| is_image(mount)).cloned().collect();
        if !mounts.is_empty() {
            kept.set("volumes", Node::sequence(mounts, Span::NONE));
        }
        services.set(name, Node::mapping(kept, Span::NONE));
    }
    let mut root = Mapping::new();
    root.set("services", Node::mapping(services, Span::NONE));
    Node::mapping(root, Span::NONE)
}
