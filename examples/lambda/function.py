"""The agent as a function of AWS Lambda: one invocation per iteration, each fires the next event.

`template.yaml` beside this file sets it up. `function.main` is the function's handler; it needs
`pip install 'thoughtgear[lambda,postgres]'`, and `agent.py` of the folder above in its package.
"""

import os

from agent import make_handler

from thoughtgear import LambdaExecutor, logs, make_lambda_handler

logs.configure(as_json=True)

main = make_lambda_handler(
    make_handler(executor=LambdaExecutor.from_boto3(os.environ["AWS_LAMBDA_FUNCTION_NAME"]))
)
