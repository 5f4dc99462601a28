"""``cakework images``: the account's images."""

from cyclopts import App

from cakework.cli.client import open_client
from cakework.cli.exits import ExitCode
from cakework.cli.output import Json, Output
from cakework.cli.vms import Ids, for_each
from cakework_client import CakeworkClient

COLUMNS = {
    "imageId": "ID",
    "state": "STATE",
    "source": "SOURCE",
    "sizeBytes": "BYTES",
    "createdAt": "CREATED",
    "imageUri": "FROM",
    "error": "ERROR",
}

app = App(name="images", help="List images, or delete some.")


@app.default
def images(*, as_json: Json = False) -> int:
    """List images, newest first; those that are being imported too."""
    with open_client() as client:
        found = [image.to_dict() for image in client.iter_images()]
    Output(as_json=as_json).table(found, COLUMNS, empty="No images.")
    return ExitCode.OK


@app.command
def delete(ids: Ids, /, *, as_json: Json = False) -> int:
    """Delete images that no VM uses. One that a VM uses, running or not, stays.

    Args:
        ids: Ids of the images.
    """
    return for_each(ids, CakeworkClient.delete_image, as_json=as_json)
