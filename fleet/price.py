"""Hourly prices of systems in sut/: added up, written with their date, asked of AWS.

harness/.venv/bin/python fleet/price.py hourly m7i.48xlarge R760xa
harness/.venv/bin/python fleet/price.py set m7i.48xlarge 9.6768 --source "AWS price list"
fleet/.venv/bin/python fleet/price.py aws m7i.48xlarge us-east-1     # needs boto3
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import cli
from harness.cli import UserError

SUT = Path(__file__).resolve().parent.parent / "sut"


def usd_per_hour(path: Path) -> float:
    """What an hour of a system costs: 0 where it is bought. Raises UserError where unknown."""
    from harness import sut_toml

    price = sut_toml.read(path).get("price", {})
    if "usd_per_hour" not in price and "usd" not in price:
        raise UserError(f"{path} has no price: put usd or usd_per_hour in, with its date")
    return price.get("usd_per_hour", 0.0)


def write(path: Path, usd: float, basis: str, source: str, when: date) -> bool:
    """Put an hourly price into a system's file, which else stays as it is; whether it changed.

    Raises UserError where there is no such file.
    """
    import tomlkit

    from harness import files, sut_toml

    sut_toml.read(path)
    old = path.read_text(encoding="utf-8")
    document = tomlkit.parse(old)
    price = document.setdefault("price", tomlkit.table())
    new = {"usd_per_hour": usd, "basis": basis, "source": source, "date": when}
    if all(price.get(key) == value for key, value in new.items()):
        return False
    price.update(new)
    text = tomlkit.dumps(document)
    sut_toml.read(path, text)
    files.write_whole(path, text.encode(), overwrite=True)
    return True


def on_demand(products: Sequence[str]) -> float:
    """USD per hour of the only product of a price list.

    `products` is `PriceList` of AWS's GetProducts: JSON documents, each with the terms that a
    product is offered at. Raises UserError where they do not give one price.
    """
    found = {
        float(dimension["pricePerUnit"]["USD"])
        for product in products
        for term in json.loads(product)["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension["unit"] == "Hrs"
    } - {0.0}
    if len(found) != 1:
        raise UserError(f"AWS's price list has {len(found)} prices for it: enter ec2_usd_per_hour")
    return found.pop()


def ask_aws(instance_type: str, region: str) -> float:
    """Its price per hour on demand, Linux, shared tenancy, by the credentials that boto3 finds."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise UserError("boto3 is missing: fleet/.venv/bin/pip install boto3") from None

    fields = {
        "instanceType": instance_type,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in fields.items()]
    try:
        client = boto3.client("pricing", region_name="us-east-1")  # its endpoint for all regions
        found = client.get_products(ServiceCode="AmazonEC2", Filters=filters)
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"AWS's price list: {cli.one_line(error)}") from None
    return on_demand(found["PriceList"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    hourly = what.add_parser("hourly", help="print what an hour of all of them costs")
    hourly.add_argument("systems", nargs="+", help="names of files in sut/")
    put = what.add_parser("set", help="write a price")
    put.add_argument("system")
    put.add_argument("usd", type=cli.positive_float)
    put.add_argument("--basis", default="on demand, Linux")
    put.add_argument("--source", default="entered")
    put.add_argument("--date", type=date.fromisoformat, default=date.today())
    aws = what.add_parser("aws", help="print the price on demand from AWS's price list")
    aws.add_argument("type")
    aws.add_argument("region")
    for each in (hourly, put):
        each.add_argument("--sut_dir", type=Path, default=SUT)
    args = parser.parse_args()
    if args.what == "hourly":
        print(sum(usd_per_hour(args.sut_dir / f"{name}.toml") for name in args.systems))
    elif args.what == "set":
        path = args.sut_dir / f"{args.system}.toml"
        is_new = write(path, args.usd, args.basis, args.source, args.date)
        print("written" if is_new else "the same")
    else:
        print(ask_aws(args.type, args.region))
    return cli.EXIT_OK


if __name__ == "__main__":
    cli.run(main)
