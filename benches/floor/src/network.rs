//! One bridge, one masquerade rule, and a namespace with a veth pair for each container.

use std::{
    fs::File,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};
use tokio::{sync::oneshot, task::spawn_blocking};

use crate::engine::Failure;

const PREFIX: u8 = 16;

/// The network that all containers of one run share.
pub struct Bridge {
    name: String,
    index: u32,
    links: Handle,
    folder: PathBuf,
}

/// A pinned network namespace that is attached to the bridge. It goes with [`Sandbox::remove`].
pub struct Sandbox {
    pub path: PathBuf,
}

impl Sandbox {
    /// Unpins the namespace; the kernel then takes it and its veth pair away.
    pub fn remove(&self) -> Result<(), Failure> {
        unmount(&self.path, UnmountFlags::DETACH)?;
        std::fs::remove_file(&self.path)?;
        Ok(())
    }
}

impl Bridge {
    /// Makes the bridge and its masquerade rule.
    pub async fn create() -> Result<Self, Failure> {
        let (connection, links, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        // Short, because interface names have at most 15 characters.
        let name = format!("fl{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir(&folder)?;
        links
            .link()
            .add(LinkBridge::new(&name).up().build())
            .execute()
            .await?;
        let index = index_of(&links, &name).await?;
        links
            .address()
            .add(index, IpAddr::V4(address(0)), PREFIX)
            .execute()
            .await?;
        let subnet = format!("{}/{PREFIX}", Ipv4Addr::new(10, 241, 0, 0));
        nft(format!(
            "add table ip {name}\n\
             add chain ip {name} post {{ type nat hook postrouting priority srcnat; }}\n\
             add rule ip {name} post ip saddr {subnet} ip daddr != {subnet} masquerade\n"
        ))
        .await?;
        Ok(Self {
            name,
            index,
            links,
            folder,
        })
    }

    /// Makes the namespace of container `index` and attaches it to the bridge.
    pub async fn attach(&self, index: usize) -> Result<Sandbox, Failure> {
        let path = self.folder.join(index.to_string());
        File::create_new(&path)?;
        // The namespace is made on a thread of its own, because unshare changes the calling thread
        // for good; the thread then waits for its end of the veth pair and configures it.
        let (made, namespace) = oneshot::channel();
        let (attached, link) = oneshot::channel();
        let pin = path.clone();
        let thread = thread::spawn(move || configure_namespace(&pin, index, made, link));
        if let Ok(namespace) = namespace.await {
            let peer = LinkUnspec::new_with_name("eth0")
                .setns_by_fd(namespace.as_raw_fd())
                .build();
            let pair = LinkVeth::new(&format!("{}v{index}", self.name), "eth0")
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .controller(self.index)
                .up()
                .build();
            self.links.link().add(pair).execute().await?;
            // A thread that has ended in the meantime tells why when it is joined.
            let _ = attached.send(());
        }
        spawn_blocking(move || thread.join())
            .await?
            .map_err(|_| "the namespace thread panicked")??;
        Ok(Sandbox { path })
    }

    /// Removes the bridge and the rule.
    pub async fn remove(&self) -> Result<(), Failure> {
        self.links.link().del(self.index).execute().await?;
        nft(format!("delete table ip {}\n", self.name)).await?;
        std::fs::remove_dir(&self.folder)?;
        Ok(())
    }
}

/// The address of the bridge (0) or of the container before `host` (1 and up).
fn address(host: usize) -> Ipv4Addr {
    let [.., third, fourth] = (host + 1).to_be_bytes();
    Ipv4Addr::new(10, 241, third, fourth)
}

fn configure_namespace(
    pin: &Path,
    index: usize,
    made: oneshot::Sender<File>,
    attached: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    // SAFETY: this thread was started for the namespace, shares nothing that depends on which
    // namespace it is in, and ends with this function.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
    mount_bind("/proc/thread-self/ns/net", pin)?;
    // A receiver that is gone has given up; the namespace is then unpinned with its folder.
    drop(made.send(File::open(pin)?));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, links, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        links
            .link()
            .set(LinkUnspec::new_with_index(1).up().build())
            .execute()
            .await?;
        attached.await?;
        let eth0 = index_of(&links, "eth0").await?;
        let own = IpAddr::V4(address(index + 1));
        links.address().add(eth0, own, PREFIX).execute().await?;
        links
            .link()
            .set(LinkUnspec::new_with_index(eth0).up().build())
            .execute()
            .await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(address(0))
            .build();
        links.route().add(route).execute().await?;
        Ok(())
    })
}

async fn index_of(links: &Handle, name: &str) -> Result<u32, Failure> {
    let mut found = links.link().get().match_name(name.to_owned()).execute();
    let link = found
        .try_next()
        .await?
        .ok_or_else(|| format!("no link {name}"))?;
    Ok(link.header.index)
}

async fn nft(rules: String) -> Result<(), Failure> {
    spawn_blocking(move || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        let status = child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("nft: {status}").into())
        }
    })
    .await?
}
