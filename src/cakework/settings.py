"""Settings: from ``CAKEWORK_*`` variables, else a TOML file, else the defaults here.

The file is ``CAKEWORK_CONFIG`` if set, else ``/etc/cakework/cakework.toml`` if it is there;
its keys are the lower-case names of the fields below.
"""

import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cakework.domain.repositories import checked_address
from cakework.nearest import nearest

DEFAULT_CONFIG = Path("/etc/cakework/cakework.toml")
PREFIX = "CAKEWORK_"
OTHER_VARIABLES = {
    "CAKEWORK_CONFIG": "names the file",
    "CAKEWORK_FAULTS": "of tests: see cakework.faults",
    "CAKEWORK_WEBHOOK_SECRET": "of programs that receive webhooks, as the guides have it",
    "CAKEWORK_VM_ID": "in a VM: see guest/PROTOCOL.md",
    "CAKEWORK_HOSTNAME": "in a VM, as well",
    "CAKEWORK_SITE": "of the build of the site: see web/astro.config.ts",
}
"""Variables with our prefix that are no settings."""
_TESTS = "CAKEWORK_TEST_"


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


Words = Annotated[list[str], NoDecode, BeforeValidator(_split)]
"""A list of words: an array in the file, comma-separated in the environment."""


def _ranges(words: list[str]) -> list[str]:
    return [str(ip_network(word)) for word in words]


Isolation = Literal["auto", "vm", "container"]


class Settings(BaseSettings):
    """Every setting of server, node and command line, with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid")

    data_dir: Path = Field(
        default=Path("/var/lib/cakework"),
        description="Folder that holds everything Cakework keeps.",
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: int = Field(default=8081, ge=0, le=65535, description="Port of the API.")
    api_connections: int = Field(
        default=8000,
        ge=2,
        description="Connections that the API has at once, at most half of them with requests of "
        "one account under way; those without a request give way.",
    )
    trusted_proxies: Annotated[Words, AfterValidator(_ranges)] = Field(
        default_factory=list[str],
        description="Addresses and ranges of the proxies before the API whose X-Forwarded-For says "
        "who asks, comma-separated; that of others says nothing.",
    )
    proxy_host: str = Field(default="127.0.0.1", description="Address the router listens on.")
    proxy_port: int = Field(
        default=8082, ge=0, le=65535, description="Port of the router to the VMs."
    )
    proxy_idle_timeout_s: int = Field(
        default=3600,
        ge=1,
        description="Longest time without a byte on a connection through the router.",
    )
    proxy_connections: int = Field(
        default=4000,
        ge=2,
        description="Connections that the router has at once; at most half of them have requests "
        "to one account's VMs under way.",
    )
    proxy_connections_per_vm: int = Field(
        default=256, ge=1, description="Requests the router has under way to one VM."
    )
    function_body_mb: int = Field(
        default=100,
        ge=1,
        le=102_400,
        description="Largest body of a request to a function's URL, in MiB.",
    )
    wake_timeout_s: int = Field(
        default=30,
        ge=1,
        description="Longest time a request waits for a VM with autoStart to start and listen.",
    )
    base_domain: str = Field(
        default="localhost",
        description="VMs get hostnames below it; point *.<base domain> at the router.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        description="First API key (cw_…): made valid at start; the command line sends it.",
    )
    url: str = Field(
        default="http://127.0.0.1:8081", description="Server that the command line talks to."
    )
    database_url: str | None = Field(
        default=None,
        description="postgresql://… of the control plane's store; unset: SQLite in data_dir.",
    )
    server_user: str = Field(
        default="nobody", description="User the server runs as when `cakework up` is root."
    )
    server_memory_mb: int = Field(
        default=2048,
        ge=256,
        description="Memory that the server may take, in MiB, before it is ended and started anew; "
        "half of it is for what becomes of large bodies.",
    )
    router_memory_mb: int = Field(
        default=1024,
        ge=256,
        description="Memory that the router may take, in MiB; from a quarter of it on, connections "
        "give way in which most waits to be taken.",
    )
    node_memory_mb: int = Field(
        default=2048,
        ge=256,
        description="Memory that the node may take, in MiB; VMs and builds have bounds of their "
        "own.",
    )
    log_level: str = Field(default="info", description="debug, info, warning or error.")
    log_format: str = Field(
        default="auto", description="json, console, or auto: console on a terminal."
    )

    min_free_store_mb: int = Field(
        default=512,
        ge=1,
        description="Free space of the disk that the server writes to, in MiB, below which it "
        "takes on nothing new and no account's logs grow; reading, stopping and deleting go on.",
    )
    max_body_mb: int = Field(default=64, ge=1, description="Largest request body taken, in MiB.")
    max_bodies_mb: int = Field(
        default=256,
        ge=1,
        description="Request bodies held in memory at once, in MiB, half of them of one account; "
        "at least two of the largest.",
    )
    max_vms_per_account: int = Field(
        default=200, ge=1, description="VMs an account may have started."
    )
    max_cached_vms_per_account: int = Field(
        default=200, ge=1, description="Cached VMs an account may have, running or not."
    )
    max_builds_per_account: int = Field(
        default=20, ge=1, description="Unfinished builds per account."
    )
    max_images_per_account: int = Field(
        default=500, ge=1, description="Images an account may have, with those being made."
    )
    max_images_mb_per_account: int = Field(
        default=51_200,
        ge=1,
        description="Size of an account's images, in MiB, from which on it makes no more.",
    )
    max_volumes_gb_per_account: int = Field(
        default=1000,
        ge=0,
        description="Volumes of an account's VMs, in GB, as large as they were asked for.",
    )
    max_kept_memory_mb_per_account: int = Field(
        default=16_384,
        ge=1,
        description="Snapshots and kept memory of an account's VMs on disk, in MiB, from which on "
        "it has no snapshots made; beyond it the memory goes that it kept first.",
    )
    max_secrets_per_account: int = Field(
        default=10_000,
        ge=1,
        description="Secrets of functions an account may have, with those of its end users.",
    )
    max_code_mb_per_account: int = Field(
        default=2048,
        ge=1,
        description="Code kept for an account's functions, their versions and drafts, in MiB "
        "before it is packed. From three quarters of it on, the code of its oldest versions goes.",
    )
    max_invocations_mb_per_account: int = Field(
        default=2048,
        ge=1,
        description="Records of an account's invocations with their events and results, in MiB, "
        "from which on no more are taken. From three quarters of it on, the oldest that have ended "
        "go.",
    )
    max_events_mb_per_account: int = Field(
        default=256,
        ge=16,
        description="Events kept for an account, in MiB. From three quarters of it on, the oldest "
        "go before their time.",
    )
    max_function_versions: int = Field(
        default=50,
        ge=5,
        description="Versions of a function whose code is kept; the newest five are kept ready, "
        "too.",
    )
    max_followed_logs_per_account: int = Field(
        default=250, ge=1, le=400, description="Logs that an account may follow at once."
    )
    max_log_lines: int = Field(
        default=200_000, ge=1000, description="Newest lines kept for each VM and each build."
    )
    max_log_lines_per_attempt: int = Field(
        default=10_000,
        ge=10,
        description="Lines kept of what one attempt of an invocation prints; then one says so.",
    )
    max_logs_mb_per_account: int = Field(
        default=1024,
        ge=1,
        description="Lines kept for the VMs and builds of an account together, in MiB on disk; "
        "beyond it its oldest go.",
    )
    retain_logs_days: int = Field(
        default=14, ge=0, description="Days that lines of logs are kept; 0: for ever."
    )
    retain_stopped_vms_days: int = Field(
        default=7,
        ge=0,
        description="Days after which one-time VMs whose program ended are destroyed; 0: never.",
    )
    retain_vms_days: int = Field(
        default=30,
        ge=0,
        description="Days that records of destroyed VMs are kept, with their logs; 0: for ever.",
    )
    retain_function_versions_days: int = Field(
        default=0,
        ge=0,
        description="Days that the code of versions is kept that are neither live nor among the "
        "newest five; 0: as long as it is one of the newest.",
    )
    retain_invocations_days: int = Field(
        default=14, ge=1, description="Days that records of ended invocations are kept."
    )
    retain_events_hours: int = Field(
        default=24,
        ge=24,
        le=24 * 365,
        description="Hours that events are kept, and known when they come again.",
    )
    retain_dead_letters_days: int = Field(
        default=30,
        ge=1,
        description="Days that dead letters are kept: what failed for good and was neither "
        "replayed nor discarded.",
    )
    retain_builds_days: int = Field(
        default=30,
        ge=0,
        description="Days that records of ended builds, failed imports and deleted images are "
        "kept, with their logs; 0: for ever.",
    )

    webhook_allow: Words = Field(
        default_factory=list[str],
        description="Private ranges, and addresses with a port, that webhooks may go to all the "
        "same, also without TLS, comma-separated.",
    )
    webhook_log_days: int = Field(
        default=30, ge=1, description="Days that ended deliveries of webhooks are kept."
    )

    artifacts_dir: Path = Field(
        default=Path(__file__).parents[2] / ".build",
        description="Folder of what set-up made: kernel, guest program, jail.",
    )
    site_dir: Path = Field(
        default=Path(__file__).parents[2] / "web" / "dist",
        description="Folder of the landing page and the documentation, which set-up built.",
    )
    accelerator: str = Field(
        default="auto", description="auto, kvm or tcg; auto boots a VM to find out."
    )
    pool_size: int = Field(
        default=64,
        ge=0,
        description="Machines kept ready ahead of demand, of the default shape; they go when VMs "
        "need the memory. Under emulation each takes some 2 MB, and one more is kept that they "
        "are forked from.",
    )
    pool_networks: int = Field(
        default=32,
        ge=0,
        le=512,
        description="Networks kept ready for the starts that find no machine ready.",
    )
    template_shapes: Words = Field(
        default_factory=lambda: ["1x256"],
        description="Templates made at start, comma-separated, each <cpu>x<memory in MB>.",
    )
    max_templates: int = Field(
        default=8, ge=1, description="Templates kept; the least used go first."
    )
    pool_snapshots: int = Field(
        default=2,
        ge=0,
        description="Snapshots of programs, and shapes other than the default, the busiest, of "
        "which a machine is kept ready, and under emulation one more that forks are made of.",
    )
    ready_timeout_s: float = Field(
        default=60,
        gt=0,
        description="Seconds that a program may take until it is ready for its snapshot.",
    )
    hook_timeout_s: float = Field(
        default=10, gt=0, le=600, description="Seconds that a hook of a VM may take."
    )
    memory_overcommit: float = Field(
        default=1.0,
        gt=0,
        description="Memory that may be promised to VMs, as a multiple of the host's. A VM counts "
        "with 64 MB more than its own, under emulation with 160 MB more.",
    )
    account_share: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Of the memory and the processors that VMs of others have not taken, as much "
        "as one account's VMs may have together. 1 where there is one account.",
    )
    cpu_overcommit: float = Field(
        default=64,
        gt=0,
        description="Processors that may be promised to VMs, as a multiple of the host's.",
    )
    disk_gb: int = Field(
        default=4, ge=1, le=500, description="Writable disk of a VM, sparse, in GB."
    )
    min_free_disk_mb: int = Field(
        default=2048,
        ge=64,
        description="Free space below which no VM starts; below three quarters of it builds and "
        "imports are ended, below half of it the largest VM.",
    )
    dns: Words = Field(
        default_factory=lambda: ["1.1.1.1", "8.8.8.8"],
        description="Resolvers that guests use, comma-separated.",
    )
    egress: bool = Field(default=True, description="Whether guests may reach the public internet.")
    egress_allow: Words = Field(
        default_factory=list[str],
        description="Private ranges guests and builds may reach all the same, comma-separated.",
    )
    vm_connections: int = Field(
        default=2048,
        ge=16,
        le=1_000_000,
        description="Connections to others that the host tracks at once for a VM or a build; TCP's "
        "count for two minutes after they were closed. All VMs' together should have room in the "
        "host's net.netfilter.nf_conntrack_max.",
    )
    vm_connections_per_s: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="New connections per second of a VM or a build; five seconds' worth may be "
        "opened at once.",
    )

    build_concurrency: int = Field(
        default=3,
        ge=1,
        description="Builds that run at once, and imports; at most half of them, rounded up, are "
        "of one account.",
    )
    build_isolation: Isolation = Field(
        default="auto",
        description="Where Dockerfiles are carried out: vm, a microVM for each build; container, "
        "on the host's kernel; auto: vm where KVM works.",
    )
    build_timeout_s: int = Field(default=900, ge=1, description="Longest time a build may take.")
    build_memory_mb: int = Field(default=2048, ge=256, description="Memory of a build.")
    build_cpus: float | None = Field(
        default=None,
        ge=0.1,
        description="Processors that all builds and imports together may use; unset: three "
        "quarters of the host's.",
    )
    build_output_mb: int = Field(
        default=16, ge=1, description="Output of a build that is kept, in MiB."
    )
    build_cache_mb: int = Field(
        default=20_480, ge=0, description="Layers kept between builds, in MiB; beyond it all go."
    )
    image_size_mb: int = Field(default=8192, ge=16, description="Largest image, unpacked, in MiB.")
    github_url: Annotated[str, AfterValidator(checked_address)] = Field(
        default="https://github.com",
        description="Where builds from GitHub fetch repositories; for GitHub Enterprise another.",
    )
    repository_size_mb: int = Field(
        default=1024,
        ge=1,
        description="Largest repository built from, in MiB: one commit, packed and checked out.",
    )
    registry_mirrors: Words = Field(
        default_factory=list[str],
        description="Mirrors for FROM, comma-separated: docker.io=mirror.example:5000/prefix.",
    )
    insecure_registries: Words = Field(
        default_factory=list[str],
        description="Registries spoken to without TLS, comma-separated host:port.",
    )
    fetch_allow: Words = Field(
        default_factory=list[str],
        description="Private ranges, and 127.0.0.1:port, that images and repositories may be "
        "fetched from all the same, comma-separated.",
    )
    extra_ca: Path | None = Field(
        default=None,
        description="File of further CA certificates (PEM) to trust when fetching, and "
        "when sending webhooks.",
    )

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Refuse what is no setting, in the file or in the environment: it would be passed over."""
        settings = cls.model_fields
        unknown = {name: nearest(name, settings) for name in given if name not in settings}
        for name in _ours(os.environ) - settings.keys():
            meant = nearest(name, settings)
            unknown[PREFIX + name.upper()] = meant and PREFIX + meant.upper()
        if unknown:
            raise _unknown(unknown)
        return given

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read arguments first, then the environment, then the TOML file."""
        path = Path(os.environ.get("CAKEWORK_CONFIG", DEFAULT_CONFIG))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, path)

    @property
    def server_dir(self) -> Path:
        """What the server keeps: its database, logs and spool."""
        return self.data_dir / "server"

    @property
    def node_dir(self) -> Path:
        """What the node keeps; readable by root alone."""
        return self.data_dir / "node"

    @property
    def run_dir(self) -> Path:
        """Where the sockets lie by which the server reaches the node."""
        return self.data_dir / "run"

    @property
    def node_socket(self) -> Path:
        """The node's internal API (HTTP)."""
        return self.run_dir / "node.sock"

    @property
    def dial_socket(self) -> Path:
        """The node's dial socket: hands out connections into VMs."""
        return self.run_dir / "dial.sock"

    @property
    def routes_socket(self) -> Path:
        """Where the server tells routers which hostname is which VM."""
        return self.run_dir / "server" / "routes.sock"


def _ours(environment: Iterable[str]) -> set[str]:
    """Return the names that are to be settings, as ``Settings`` reads them: in any case."""
    names = {name.upper() for name in environment if name.upper().startswith(PREFIX)}
    names = {name for name in names - OTHER_VARIABLES.keys() if not name.startswith(_TESTS)}
    return {name.removeprefix(PREFIX).lower() for name in names}


def _unknown(names: Mapping[str, str | None]) -> ValidationError:
    faults: list[InitErrorDetails] = []
    for name, meant in sorted(names.items()):
        said = "is no setting" if meant is None else f"is no setting; did you mean {meant}?"
        kind = PydanticCustomError("unknown_setting", "{said}", {"said": said})
        faults.append(InitErrorDetails(type=kind, loc=(name,), input=None))
    return ValidationError.from_exception_data("settings", faults, hide_input=True)
