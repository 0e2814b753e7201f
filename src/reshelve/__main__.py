from reshelve.cli import main

main()
