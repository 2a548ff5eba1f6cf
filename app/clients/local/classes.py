"""Groups of ImageNet classes (ILSVRC 2012, by their usual indices) that speak for or against a category."""

# Indices and ranges of them; no class is in two groups.
_GROUPS = {
    # goldfish, parrots, dogs, house cats, rabbits, hamster, guinea pig
    "pets": "1 87-90 151-268 281-285 330-333 338",
    # dishes, fruit and vegetables (hay and cardoon among them are not food), drinks, tableware, where it is sold
    "food": "415 441 504-505 509 532 550 659 762 809 923-945 947-957 959-969 987",
    # nature (coral reef to volcano), then buildings and harbours as travellers photograph them
    "scenery": (
        "970 972-980 437 442 449 460 483-484 497 500 525 536 538 562 576 649 663 668 682 698 718 780 821 832 839 "
        "873 888 914-915"
    ),
    # screens, computers, telephones, web site
    "screen": "409 487 508 527 530 590 592 605 620 662 664 681 761 782 851 916",
    # binder, carton, envelope, packet, wallet, comic, crossword, book jacket, menu
    "printed": "446 478 549 692 720 748 893 917-918 921-922",
    # clothes, hats, glasses and jewellery: ImageNet has next to no class for people, but many for what they wear
    "worn": (
        "399-400 411 433-434 445 451-452 456-457 459 465 474 501 515 518 551-552 560 568 578 584 601 608 610 614 "
        "617 638-639 643 652 655 667 678-679 689 697 735 775 793 796 801 808 824 834 836-837 841-842 869 887 903 "
        "906 911 981-983"
    ),
    # every other animal
    "wildlife": "0 2-86 91-150 269-280 286-329 334-337 339-397",
    "vehicles": (
        "403-405 407-408 436 444 450 466 468 472 475 479 511 517 547 554-555 561 565 569 573 575 581 586 603 609 "
        "612 621 625 627-628 637 654 656 661 665 670-671 675 690 705 717 734 751 757 779 791 802-803 812 814 817 "
        "820 829 833 847 856 864 866-867 870-871 874 880 895 908 913"
    ),
    # flowers, fruit that is not eaten, fungi
    "plants": "984-986 988-997",
    # furniture and what else makes a room
    "indoor": (
        "423 431 453 493 495 516 520 526 553 559 564 648 703 736 742 750 765 789 794 831 846 854 857 861 876 894 "
        "896 905"
    ),
    # tools, instruments, vessels, machines of the household
    "things": (
        "412 418 435 440 463 469-470 473 480-482 499 502-503 507 512 519 521 531 535 539-540 542-543 545 563 567 "
        "570 577 585 587-589 591 596 600 604 606-607 611 613 616 618-619 622-624 626 629-633 635-636 644-647 651 "
        "653 658 666 672-674 676-677 680 685-686 688 691 694-696 700 704 707 709-714 719 721 723 725-733 737-741 "
        "743-746 749 753-756 758-760 763-764 766-767 769-774 777-778 783-788 790 792 797-800 804 806-807 810-811 "
        "813 815-816 818-819 823 826-828 830 835 838 840 843-845 848-850 853 855 858-860 862-863 865 868 872 "
        "877-879 882-886 891-892 897-902 904 907 909-910 912"
    ),
}


def class_indices(text: str) -> tuple[int, ...]:
    """Read indices and ranges of them, separated by spaces: "1 87-90" is 1, 87, 88, 89, 90."""
    indices: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        indices.extend(range(int(first), int(last or first) + 1))
    return tuple(indices)


IMAGENET_GROUPS = {name: class_indices(text) for name, text in _GROUPS.items()}
