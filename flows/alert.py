"""Makes Prefect post to an address when a flow run fails or crashes: `python -m flows.alert URL`."""

import argparse
import sys
from datetime import timedelta
from urllib.parse import urlsplit

from prefect import get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import get_current_settings

from diffalign.core.errors import UserError
from flows.serving import check_api

NAME = "diffalign: a run failed"
BLOCK = "diffalign-failed"
EVENTS = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
SUBJECT = "{{ flow_run.name }} is {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}"


def automation(flow: str, block: CustomWebhookNotificationBlock) -> AutomationCore:
    """Returns the automation that has a saved block tell each failed or crashed run of a flow, once."""
    assert block._block_document_id is not None, "the block was saved"
    return AutomationCore(
        name=NAME,
        description="Made by python -m flows.alert",
        trigger=EventTrigger(
            expect=EVENTS,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.name": flow, "prefect.resource.role": "flow"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[SendNotification(block_document_id=block._block_document_id, subject=SUBJECT, body=BODY)],
    )


def make(url: str, flow: str = "align") -> str:
    """Makes the automation on the server that is set, in place of one made before; returns what to tell the user.

    What is posted is JSON, `{"text": ...}`, as Slack, Mattermost and others take it. The address is kept as a secret.
    Raises UserError for what isn't an address, and without a server.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UserError(f"alert: expected an address such as https://hooks.slack.com/services/..., got {url!r}.")
    if not get_current_settings().api.url:
        raise UserError("alert: expected a Prefect server that stays: start one, and set PREFECT_API_URL to its API.")
    check_api()
    text = {"text": "{{subject}}\n{{body}}"}
    block = CustomWebhookNotificationBlock(name=BLOCK, url="{{url}}", json_data=text, secrets={"url": url})
    block.save(BLOCK, overwrite=True)
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(NAME):
            client.delete_automation(old.id)
        client.create_automation(automation(flow, block))
    return f"Runs of {flow} that fail or crash are told to {urlsplit(url).netloc} from now on: automation '{NAME}'."


def main() -> None:
    """Runs the command; UserError is one message and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m flows.alert", description=__doc__)
    parser.add_argument("url", help="where to POST, such as a webhook of Slack")
    parser.add_argument("--flow", default="align", help="whose runs (align)")
    arguments = parser.parse_args()
    try:
        print(make(arguments.url, arguments.flow))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
