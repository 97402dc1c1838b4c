//! What a service looked like when its container was made, as one short text.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::Service;

/// The SHA-256, in hexadecimal, of everything in a service that its container depends on: not the
/// build, the pull policy, the number of replicas, dependencies nor profiles.
pub fn config_hash(service: &Service) -> String {
    let mut hashed = service.clone();
    hashed.build = None;
    hashed.pull_policy = None;
    hashed.scale = None;
    hashed.depends_on.clear();
    hashed.profiles.clear();
    if let Some(deploy) = &mut hashed.deploy {
        deploy.replicas = None;
    }
    // Through a value, so that keys have one order whatever that of the file was.
    let mut value = serde_json::to_value(&hashed).unwrap_or_default();
    sort_keys(&mut value);
    HEXLOWER.encode(&Sha256::digest(value.to_string()))
}

fn sort_keys(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.sort_keys();
            map.values_mut().for_each(sort_keys);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(sort_keys),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            name: "web".to_owned(),
            image: Some("nginx".to_owned()),
            ..Service::default()
        }
    }

    #[test]
    fn what_makes_no_container_differ_does_not_count() {
        let mut other = service();
        other.scale = Some(3);
        other.pull_policy = Some("always".to_owned());
        other.profiles = vec!["debug".to_owned()];
        assert_eq!(config_hash(&service()), config_hash(&other));
    }

    #[test]
    fn the_order_of_keys_does_not_count() {
        let mut left = service();
        let mut right = service();
        for key in ["A", "B"] {
            left.labels.insert(key.to_owned(), String::new());
        }
        for key in ["B", "A"] {
            right.labels.insert(key.to_owned(), String::new());
        }
        assert_eq!(config_hash(&left), config_hash(&right));
    }

    #[test]
    fn another_image_makes_another_hash() {
        let mut other = service();
        other.image = Some("httpd".to_owned());
        let hash = config_hash(&service());
        assert_ne!(hash, config_hash(&other));
        assert_eq!(hash.len(), 64);
    }
}
